"""Token perturbations: what is replaced, by what, how often, and what Captum's metrics are handed."""

import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import TokenMask, TokenSwap

SPECIAL = (0, 1, 2)
VOCABULARY = range(40)


def some_ids(batch_size: int = 3, length: int = 12) -> torch.Tensor:
    ids = torch.randint(3, 40, (batch_size, length))
    ids[:, 0] = 1
    ids[:, -1] = 2
    return ids


def perturbations(**options):
    return [TokenSwap(VOCABULARY, **options), TokenMask(39, **options)]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.1, 1), (0.3, 3), (0.5, 5), (1.0, 10)])
def test_the_share_of_replaceable_tokens_is_replaced_in_every_text(which, share, expected):
    ids = some_ids().clamp(max=38)
    perturbation = perturbations(share=share, keep=SPECIAL)[which]

    perturbed = perturbation.perturb(ids)

    assert (perturbed != ids).sum(-1).tolist() == [expected] * 3


@pytest.mark.parametrize("which", [0, 1])
def test_kept_ids_are_neither_replaced_nor_drawn(which):
    ids = some_ids(batch_size=20)
    perturbation = perturbations(share=1.0, keep=SPECIAL)[which]

    perturbed = perturbation.perturb(ids)

    special = torch.tensor(SPECIAL)
    assert torch.equal(torch.isin(ids, special), torch.isin(perturbed, special))
    assert torch.equal(perturbed[:, 0], ids[:, 0])


def test_a_swapped_token_becomes_each_other_id_equally_often():
    ids = torch.full((9000, 1), 5)
    swap = TokenSwap([3, 5, 8, 9], share=1.0, keep=[], seed=0)

    drawn = swap.perturb(ids)

    shares = torch.stack([(drawn == other).double().mean() for other in (3, 8, 9)])
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.02)


def test_an_id_outside_the_vocabulary_is_swapped_for_any_of_it():
    ids = torch.tensor([[100], [1]]).repeat(500, 1)

    drawn = TokenSwap([3, 8], share=1.0, seed=0).perturb(ids)

    assert set(drawn.flatten().tolist()) == {3, 8}


def test_masking_replaces_by_the_mask_token_and_counts_only_what_changes():
    ids = torch.tensor([[1, 7, 7, 39, 2]])

    perturbed = TokenMask(39, share=1.0, keep=SPECIAL).perturb(ids)

    assert perturbed.tolist() == [[1, 39, 39, 39, 2]]


@pytest.mark.parametrize("which", [0, 1])
def test_the_same_seed_gives_the_same_draws_and_a_second_draw_differs(which):
    ids = some_ids(length=30).clamp(max=38)
    first, second = (perturbations(share=0.5, keep=SPECIAL, seed=4)[which] for _ in range(2))

    draws = [first.perturb(ids), first.perturb(ids)]

    assert torch.equal(draws[0], second.perturb(ids))
    assert torch.equal(draws[1], second.perturb(ids))
    assert not torch.equal(draws[0], draws[1])


def test_without_a_seed_the_global_seed_decides():
    ids = some_ids()
    swap = TokenSwap(VOCABULARY, share=0.5)

    torch.manual_seed(3)
    first = swap.perturb(ids)
    torch.manual_seed(3)

    assert torch.equal(swap.perturb(ids), first)


def test_a_seeded_perturbation_leaves_the_global_random_state_alone():
    ids = some_ids()
    before = torch.get_rng_state()

    TokenSwap(VOCABULARY, seed=1).perturb(ids)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_shape_and_dtype_are_kept_and_the_input_is_not_changed(dtype):
    ids = some_ids().to(dtype)
    copy = ids.clone()

    perturbed = TokenSwap(VOCABULARY, share=0.5).perturb(ids)

    assert perturbed.dtype == dtype
    assert perturbed.shape == ids.shape
    assert torch.equal(ids, copy)


def test_sensitivity_gets_a_tuple_and_infidelity_a_binary_perturbation_with_its_ids():
    ids = some_ids()

    (perturbed,) = TokenSwap(VOCABULARY, share=0.5, keep=SPECIAL, seed=2).for_sensitivity(ids, 0.02)
    changes, same = TokenSwap(VOCABULARY, share=0.5, keep=SPECIAL, seed=2).for_infidelity(ids)

    assert torch.equal(perturbed, same)
    assert changes.is_floating_point()
    assert torch.equal(changes == 1, ids != same)
    assert torch.equal(changes == 0, ids == same)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(InputError, match="share must be above 0 and at most 1"):
        TokenMask(3, share=share)


def test_a_vocabulary_with_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="at least two ids to draw from, found 1"):
        TokenSwap([0, 1, 7], keep=[0, 1])


@pytest.mark.parametrize("ids", [torch.rand(2, 5), torch.zeros(5, dtype=torch.long), torch.ones(2, 5).bool()])
def test_what_is_no_batch_of_ids_is_refused(ids):
    with pytest.raises(InputError, match=r"Expected token ids \(B, T\)"):
        TokenSwap(VOCABULARY).perturb(ids)


def test_a_text_of_special_tokens_only_is_refused():
    with pytest.raises(InputError, match="Text 1 has no token that may be replaced"):
        TokenSwap(VOCABULARY, keep=SPECIAL).perturb(torch.tensor([[1, 8, 2], [1, 2, 0]]))
