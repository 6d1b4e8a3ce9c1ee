"""SRG, deletion, insertion, AOPC and Chefer's pixel test: worked examples and properties."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import (
    area_over_perturbation_curve,
    black,
    deletion,
    insertion,
    pixel_accuracy_curve,
    symmetric_relevance_gain,
)

WEIGHTS = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
ONES = torch.ones(1, 3, dtype=torch.float64)
MAP = torch.tensor([[3.0, 2.0, 1.0]])


def linear(inputs):
    return inputs @ WEIGHTS.T


def test_gain_of_a_worked_example():
    # Least first 6 5 3 0: (3 + 5 + 3) / 3 = 11/3. Most first 6 3 1 0: 7/3. The gain is 4/3.
    gain = symmetric_relevance_gain(linear, ONES, MAP, target=0)

    torch.testing.assert_close(gain, torch.tensor([4 / 3], dtype=torch.float64))


def random_model(features):
    return nn.Sequential(nn.Linear(features, 7), nn.Tanh(), nn.Linear(7, 3)).double()


@given(st.lists(st.integers(-3, 3), min_size=10, max_size=10), st.sampled_from([None, 2, 3]))
@settings(deadline=None, max_examples=20)
def test_a_negated_map_gets_the_negative_gain_ties_or_not(numbers, steps):
    torch.manual_seed(1)
    model, inputs = random_model(5), torch.rand(2, 5, dtype=torch.float64)
    maps = torch.tensor(numbers, dtype=torch.float64).reshape(2, 5)
    gain = partial(symmetric_relevance_gain, model, inputs, target=torch.tensor([0, 2]), steps=steps)

    torch.testing.assert_close(gain(-maps), -gain(maps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, -2.0, 1e8])
def test_a_constant_map_gets_exactly_nothing(value):
    gain = symmetric_relevance_gain(linear, ONES, torch.full((1, 3), value), target=0)

    assert gain.tolist() == [0.0]


def test_random_maps_get_nothing_on_average():
    model, inputs = random_model(6), torch.rand(1, 6, dtype=torch.float64).expand(500, -1)
    maps = torch.rand(500, 6)

    gains = symmetric_relevance_gain(model, inputs, maps, target=1)

    assert gains.abs().mean() > 0.05  # each alone is far from nothing
    assert gains.mean().abs() < 3 * gains.std() / 500**0.5


def test_the_true_order_of_a_sum_gets_the_highest_gain_of_all_orders():
    from itertools import permutations

    gains = {
        order: float(symmetric_relevance_gain(linear, ONES, torch.tensor([order]), target=0))
        for order in permutations((1.0, 2.0, 3.0))
    }

    assert max(gains, key=gains.get) == (3.0, 2.0, 1.0)


def test_deletion_and_insertion_are_mean_probabilities_along_the_way():
    chance = [1 / (1 + torch.tensor(-value, dtype=torch.float64).exp()) for value in (6.0, 3.0, 1.0, 0.0)]
    removed = (chance[0] / 2 + chance[1] + chance[2] + chance[3] / 2) / 3
    # Put back: nothing, 3, 3 + 2, all.
    chance = [1 / (1 + torch.tensor(-value, dtype=torch.float64).exp()) for value in (0.0, 3.0, 5.0, 6.0)]
    inserted = (chance[0] / 2 + chance[1] + chance[2] + chance[3] / 2) / 3

    torch.testing.assert_close(deletion(linear, ONES, MAP, target=0), removed[None], rtol=0, atol=1e-12)
    torch.testing.assert_close(insertion(linear, ONES, MAP, target=0), inserted[None], rtol=0, atol=1e-12)


def test_insertion_of_the_most_is_removal_of_the_least_backwards():
    model, inputs, maps = random_model(5), torch.rand(2, 5, dtype=torch.float64), torch.rand(2, 5)

    put_back = insertion(model, inputs, maps, target=1, score="logit")
    removed = deletion(model, inputs, maps, target=1, score="logit", order="least")

    torch.testing.assert_close(put_back, removed, rtol=0, atol=1e-12)


def test_aopc_of_a_worked_example():
    # Losses 0, 3, 5, 6 over the four steps 0 to 3: 14 / 4.
    found = area_over_perturbation_curve(linear, ONES, MAP, target=0, score="logit")

    assert found.tolist() == [3.5]


def chefer_slow(model, pixels, maps, labels, *, mean, std, order):
    """The protocol on un-normalised images, one image and step at a time."""
    hits = []
    for image, one, label in zip(pixels, maps, labels.tolist(), strict=True):
        row = []
        for percent in range(10, 100, 10):
            changed = image.clone().flatten(1)
            places = one.flatten().argsort(descending=order == "most")[: percent * changed.shape[1] // 100]
            changed[:, places] = 0
            normalised = (changed.view_as(image) - mean[:, None, None]) / std[:, None, None]
            row.append(float(model(normalised[None]).argmax() == label))
        hits.append(row)
    return torch.tensor(hits, dtype=torch.float64)


@pytest.mark.parametrize("order", ["most", "least"])
def test_pixel_test_agrees_with_the_protocol_on_unnormalised_images(order):
    mean, std = torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 7, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    pixels, maps = torch.rand(4, 3, 5, 7, dtype=torch.float64), torch.rand(4, 1, 5, 7)
    labels = torch.tensor([0, 1, 2, 1])
    images = (pixels - mean[:, None, None]) / std[:, None, None]

    curve = pixel_accuracy_curve(model, images, maps, black(mean.tolist(), std.tolist()), target=labels, order=order)

    with torch.no_grad():
        expected = chefer_slow(model, pixels, maps, labels, mean=mean, std=std, order=order)
    assert torch.equal(curve.scores, expected)
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(curve.shares[0], torch.arange(1, 10, dtype=torch.float64) / 10)


def test_pixel_test_cannot_reach_more_than_the_width_of_its_nine_points():
    def always_first(images):
        return torch.tensor([[1.0, 0.0]]).expand(len(images), -1)

    curve = pixel_accuracy_curve(always_first, torch.rand(2, 3, 4, 5), torch.rand(2, 1, 4, 5), 0.0)

    torch.testing.assert_close(curve.area(), torch.full((2,), 0.8, dtype=torch.float64))


def test_shares_outside_their_range_are_refused():
    with pytest.raises(InputError, match="shares above 0 and up to 1"):
        pixel_accuracy_curve(nn.Flatten(), torch.rand(1, 3, 2, 2), torch.rand(1, 1, 2, 2), 0.0, shares=(0.5, 1.5))


def test_every_score_is_a_function_of_the_map_alone_once_the_rest_is_given():
    scores = {
        "gain": partial(symmetric_relevance_gain, linear, ONES, target=0),
        "deletion": partial(deletion, linear, ONES, target=0),
        "insertion": partial(insertion, linear, ONES, target=0),
        "aopc": partial(area_over_perturbation_curve, linear, ONES, target=0),
    }

    assert all(score(MAP).shape == (1,) for score in scores.values())
