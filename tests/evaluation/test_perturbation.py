"""Curves of a score while units are removed: worked examples, a slow loop, targets, arguments, bad input."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from attrib_plugin.errors import InputError, TargetError
from attrib_plugin.evaluation import patch_units, perturbation_curve, symmetric_relevance_gain, token_units

WEIGHTS = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
ONES = torch.ones(1, 3, dtype=torch.float64)
MAP = torch.tensor([[3.0, 2.0, 1.0]])


def linear(inputs):
    """Class 0 is 3 a + 2 b + c, class 1 is 0."""
    return inputs @ WEIGHTS.T


def curve(**options):
    return perturbation_curve(linear, ONES, MAP, **{"target": 0, **options})


def test_most_and_least_influential_first_on_a_sum():
    # 3 + 2 + 1 = 6; without 3: 3; without 3 and 2: 1; nothing left: 0. From the other end: 6, 5, 3, 0.
    assert curve().scores.tolist() == [[6.0, 3.0, 1.0, 0.0]]
    assert curve(order="least").scores.tolist() == [[6.0, 5.0, 3.0, 0.0]]
    torch.testing.assert_close(curve().shares, torch.tensor([[0, 1 / 3, 2 / 3, 1]], dtype=torch.float64))


def test_insertion_begins_with_nothing_and_ends_with_the_input():
    assert curve(insert=True).scores.tolist() == [[0.0, 3.0, 5.0, 6.0]]
    assert curve(insert=True, order="least").scores.tolist() == [[0.0, 1.0, 3.0, 6.0]]


def test_area_is_that_of_trapezoids_over_the_share():
    # (6 / 2 + 3 + 1 + 0 / 2) / 3 = 7 / 3
    torch.testing.assert_close(curve().area(), torch.tensor([7 / 3], dtype=torch.float64))


def test_baselines_take_the_place_of_what_is_removed():
    # With 10 in place of 1: 3 * 10 + 3 = 33, then 30 + 20 + 1 = 51, then 60.
    assert curve(baselines=10).scores.tolist() == [[6.0, 33.0, 51.0, 60.0]]
    assert curve(baselines=torch.tensor([10.0, 1.0, 1.0])).scores.tolist() == [[6.0, 33.0, 33.0, 33.0]]


def test_few_steps_remove_several_units_at_once_and_never_more_steps_than_units():
    # 2 steps of 3 units: round(1.5) = 2 are removed first.
    few = curve(steps=2)

    assert few.scores.tolist() == [[6.0, 1.0, 0.0]]
    torch.testing.assert_close(few.shares, torch.tensor([[0, 2 / 3, 1]], dtype=torch.float64))
    assert curve(steps=100).scores.shape == (1, 4)
    with pytest.raises(InputError, match="steps must be at least 1"):
        curve(steps=0)


def test_a_constant_map_removes_units_as_they_stand_from_either_end():
    flat = torch.ones(1, 3)

    for order in ("most", "least"):
        scores = perturbation_curve(linear, ONES, flat, target=0, order=order).scores
        assert scores.tolist() == [[6.0, 3.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("probability", lambda logits: [value.exp() / (1 + value.exp()) for value in logits]),
        ("log_probability", lambda logits: [-(1 + (-value).exp()).log() for value in logits]),
        ("correct", lambda logits: [torch.tensor(1.0, dtype=torch.float64)] * 4),  # the last is a tie: the first class
        (torch.sigmoid, lambda logits: [1 / (1 + (-value).exp()) for value in logits]),
    ],
)
def test_other_scores_are_read_off_the_same_outputs(score, expected):
    logits = torch.tensor([6.0, 3.0, 1.0, 0.0], dtype=torch.float64)

    found = curve(score=score).scores[0]

    torch.testing.assert_close(found, torch.stack(expected(logits)), rtol=0, atol=1e-12)


def test_the_predicted_class_is_that_of_the_input_as_it_is():
    # Class 1 is 2 throughout and predicted for the second sample only: 6 > 2, but 1 < 2.
    def model(inputs):
        return torch.cat([inputs @ WEIGHTS[:1].T, torch.full((len(inputs), 1), 2.0, dtype=inputs.dtype)], 1)

    inputs = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)

    scores = perturbation_curve(model, inputs, MAP.expand(2, -1)).scores

    assert scores.tolist() == [[6.0, 3.0, 1.0, 0.0], [2.0] * 4]


def slow_curve(model, images, maps, *, fill, target, patch, order, steps):
    """Each sample and step alone, patches removed by slices."""
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    curves = []
    for image, one, wanted in zip(images, maps, target.tolist(), strict=True):
        values = {
            (y, x): one[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].sum().item()
            for y in range(rows)
            for x in range(columns)
        }
        places = sorted(values, key=values.get, reverse=order == "most")
        scores = []
        for step in range(steps + 1):
            changed = image.clone()
            for y, x in places[: int(step * len(places) / steps + 0.5)]:
                changed[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = fill[:, None, None]
            with torch.no_grad():
                scores.append(model(changed[None])[0, wanted].item())
        curves.append(scores)
    return torch.tensor(curves, dtype=torch.float64)


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_patches_of_a_batch_agree_with_slow_loops(order, batch_size):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.Flatten(), nn.Linear(5 * 4 * 6, 4)).double()
    images, maps = torch.rand(2, 3, 6, 8, dtype=torch.float64), torch.rand(2, 3, 6, 8)
    fill, target = torch.rand(3, dtype=torch.float64), torch.tensor([3, 1])

    found = perturbation_curve(
        model,
        images,
        maps,
        fill[None, :, None, None],
        target=target,
        order=order,
        steps=5,
        feature_mask=patch_units((6, 8), (2, 2)),
        internal_batch_size=batch_size,
    )

    expected = slow_curve(model, images, maps, fill=fill, target=target, patch=2, order=order, steps=5)
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-10)


class TinyText(nn.Module):
    """Sums a value a token over the tokens of the mask; padding would change the score."""

    def forward(self, input_ids, attention_mask, scale=1.0):
        values = input_ids.double() * attention_mask * scale
        return SimpleNamespace(logits=torch.stack([values.sum(-1), -values.sum(-1)], -1))


def test_padded_texts_of_different_length_are_scored_as_they_are_alone():
    ids = torch.tensor([[1, 7, 5, 9, 2], [1, 4, 2, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    maps = ids.double()
    units = token_units(ids, keep=(0, 1, 2))

    both = perturbation_curve(TinyText(), ids, maps, 3, (mask,), torch.tensor([0, 1]), feature_mask=units)

    # First: 1+7+5+9+2 = 24; 9 -> 3: 18; 7 -> 3: 14; 5 -> 3: 12. Second, class 1: -7; 4 -> 3: -6 from half way on.
    assert both.scores[0].tolist() == [24.0, 18.0, 14.0, 12.0]
    assert both.scores[1].tolist() == [-7.0, -7.0, -6.0, -6.0]
    assert both.shares[1].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_tokens_that_are_never_removed_are_there_when_insertion_begins():
    ids = torch.tensor([[1, 7, 5, 9, 2]])
    units = token_units(ids, keep=(1, 2))

    found = perturbation_curve(
        TinyText(), ids, ids.double(), 3, torch.ones_like(ids), 0, insert=True, feature_mask=units
    )

    # 1 + 3 + 3 + 3 + 2 = 12, then 9, 7 and 5 come back.
    assert found.scores.tolist() == [[12.0, 18.0, 22.0, 24.0]]


def test_arguments_by_name_follow_their_sample():
    ids, mask = torch.tensor([[7, 5], [4, 0]]), torch.tensor([[1, 1], [1, 0]])

    by_position = perturbation_curve(TinyText(), ids, ids.double(), 3, (mask, 2.0), 0, internal_batch_size=1)
    by_name = perturbation_curve(
        TinyText(), ids, ids.double(), 3, target=0, forward_kwargs={"attention_mask": mask, "scale": 2.0}
    )

    assert torch.equal(by_position.scores, by_name.scores)
    assert by_name.scores[1].tolist() == [8.0, 6.0, 6.0]


@pytest.mark.parametrize("target", [[1, 0], [(1,), (0,)], torch.tensor([1, 0])])
def test_every_form_of_target_selects_each_samples_class(target):
    inputs = torch.rand(2, 3, dtype=torch.float64)

    scores = perturbation_curve(linear, inputs, MAP.expand(2, -1), target=target).scores

    assert scores[0].tolist() == [0.0] * 4
    torch.testing.assert_close(scores[1, 0], linear(inputs)[1, 0])


def test_a_model_with_one_value_a_sample_needs_no_target():
    scores = perturbation_curve(lambda inputs: inputs @ WEIGHTS[0], ONES, MAP).scores

    assert scores.tolist() == [[6.0, 3.0, 1.0, 0.0]]
    with pytest.raises(InputError, match="one value a sample, which has no probability"):
        perturbation_curve(lambda inputs: inputs @ WEIGHTS[0], ONES, MAP, score="probability")


def test_inputs_and_maps_in_tuples_are_taken_and_not_changed():
    inputs, maps = ONES.clone(), MAP.clone()

    scores = perturbation_curve(linear, (inputs,), (maps,), target=0).scores

    assert scores.tolist() == [[6.0, 3.0, 1.0, 0.0]]
    assert torch.equal(inputs, ONES)
    assert torch.equal(maps, MAP)


def test_wrong_targets_and_outputs_are_refused():
    with pytest.raises(TargetError, match=r"does not fit the model's output of shape \(1, 2\)"):
        curve(target=5)
    with pytest.raises(TargetError, match="one for each of 1 samples, found 3"):
        curve(target=torch.tensor([0, 1, 0]))
    with pytest.raises(TargetError, match="Target not provided when necessary"):
        perturbation_curve(lambda inputs: torch.rand(len(inputs), 2, 3), ONES, MAP)
    with pytest.raises(InputError, match=r"found dict\. Wrap it in a function"):
        perturbation_curve(lambda inputs: {"a": inputs}, ONES, MAP, target=0)
    with pytest.raises(InputError, match="one row of scores for each of 1 inputs"):
        perturbation_curve(lambda inputs: torch.rand(4, 2), ONES, MAP, target=0)


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="score must be one of 'logit'"):
        curve(score="odds")
    with pytest.raises(InputError, match="order must be 'most' or 'least'"):
        curve(order="first")
    with pytest.raises(InputError, match="Give the id of the mask token"):
        perturbation_curve(linear, ONES.long(), MAP, target=0)
    with pytest.raises(InputError, match=r"Baselines of shape \(4,\) do not fit inputs \(1, 3\)"):
        curve(baselines=torch.rand(4))
    with pytest.raises(InputError, match="inputs to be a tensor or a tuple with one tensor, found list"):
        perturbation_curve(linear, [1.0], MAP, target=0)


def test_the_model_is_run_without_gradients_and_keeps_its_mode():
    model = nn.Linear(3, 2)
    model.train()

    scores = perturbation_curve(model, torch.rand(2, 3), MAP.expand(2, -1), target=0).scores

    assert not scores.requires_grad
    assert model.training
    assert model.weight.grad is None


def test_the_two_ends_of_both_curves_are_run_once_and_no_batch_is_larger_than_asked_for():
    sizes = []

    def counting(inputs):
        sizes.append(len(inputs))
        return linear(inputs)

    inputs, maps = ONES.repeat(5, 1), torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    symmetric_relevance_gain(counting, inputs, maps, target=0, internal_batch_size=2)

    # Whole and empty once, and after one unit and after two from either end.
    assert sum(sizes) == 5 * (2 + 2 * 2)
    assert max(sizes) == 2


@pytest.mark.parametrize("insert", [False, True])
def test_ends_keep_what_is_never_removed(insert):
    mask = torch.tensor([[0, -1, 1]])

    scores = perturbation_curve(linear, ONES, MAP, target=0, feature_mask=mask, insert=insert).scores[0].tolist()

    # 2 b stays: 6, 3, 2 on the way out; 2, 5, 6 on the way back.
    assert scores == ([2.0, 5.0, 6.0] if insert else [6.0, 3.0, 2.0])
