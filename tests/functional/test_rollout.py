"""Attention rollout against slow loops, and what must hold for every attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional import attention_rollout, attention_rollout_rows, discard_lowest, mix_residual

L, B, N = 4, 3, 5
EXACT = {"rtol": 0.0, "atol": 1e-12}
SEEDS = st.integers(0, 10_000)
quickly = settings(max_examples=25, deadline=None, derandomize=True)


def stochastic(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1)


def non_negative(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_mix(attention, weight):
    """(1 - w) A + w I of one matrix, rows divided by their sums."""
    rows = []
    for query, row in enumerate(attention.tolist()):
        mixed = [(1 - weight) * entry + weight * (key == query) for key, entry in enumerate(row)]
        rows.append([entry / sum(mixed) if sum(mixed) else 0.0 for entry in mixed])
    return torch.tensor(rows, dtype=torch.float64)


def slow_product(upper, lower):
    product = torch.zeros(len(upper), lower.shape[1], dtype=torch.float64)
    for i in range(len(upper)):
        for j in range(lower.shape[1]):
            product[i, j] = sum(float(upper[i, k] * lower[k, j]) for k in range(len(lower)))
    return product


def slow_rollout(attention, residual=0.5, start_layer=0):
    """Ã(l) = Â(l) Ã(l-1) from Ã(start) = Â(start), sample by sample."""
    rolled = []
    for sample in range(attention.shape[1]):
        joint = slow_mix(attention[start_layer, sample], residual)
        for layer in range(start_layer + 1, len(attention)):
            joint = slow_product(slow_mix(attention[layer, sample], residual), joint)
        rolled.append(joint)
    return torch.stack(rolled)


# ------------------------------------------------------------------------------------- residual


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("maps", [stochastic, non_negative])
def test_residual_mix_agrees_with_slow_loops(maps, weight):
    attention = maps(B, N, N)

    mixed = mix_residual(attention, weight)

    assert_close(mixed, torch.stack([slow_mix(sample, weight) for sample in attention]), **EXACT)


def test_residual_mix_is_half_identity_unless_something_else_is_asked_for():
    attention = stochastic(B, N, N)

    mixed = mix_residual(attention)

    assert_close(mixed, (attention + torch.eye(N, dtype=torch.float64)) / 2, **EXACT)


@quickly
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=N, unique=True), st.floats(0, 1), SEEDS)
def test_residual_mix_of_some_rows_is_some_rows_of_the_mix(rows, weight, seed):
    attention, rows = non_negative(2, B, N, N, seed=seed), torch.tensor(rows)

    some = mix_residual(attention[..., rows, :], weight, rows=rows)

    assert_close(some, mix_residual(attention, weight)[..., rows, :], **EXACT)


@quickly
@given(st.floats(0.01, 1), SEEDS)
def test_rows_of_the_residual_mix_sum_to_one_whatever_the_map(weight, seed):
    mixed = mix_residual(non_negative(B, N, N, seed=seed), weight)

    assert_close(mixed.sum(-1), torch.ones(B, N, dtype=torch.float64), **EXACT)


def test_rows_without_attention_and_residual_stay_zero():
    attention = stochastic(B, N, N)
    attention[1, 2] = 0

    mixed = mix_residual(attention, 0.0)

    assert not mixed[1, 2].any()
    assert torch.isfinite(mixed).all()


def test_residual_mix_leaves_its_argument_as_it_was():
    attention = stochastic(B, N, N)
    before = attention.clone()

    for weight in (0.0, 0.5, 1.0):
        mix_residual(attention, weight)

    assert_close(attention, before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("weight", [-0.01, 1.01, float("nan")])
def test_residual_outside_the_unit_interval_is_refused(weight):
    with pytest.raises(ValueError, match="residual must be between 0 and 1, not"):
        mix_residual(stochastic(B, N, N), weight)
    with pytest.raises(ValueError, match="residual must be between 0 and 1, not"):
        attention_rollout(stochastic(L, B, N, N), residual=weight)
    with pytest.raises(ValueError, match="residual must be between 0 and 1, not"):
        attention_rollout_rows(stochastic(L, B, N, N), stochastic(B, 1, N), residual=weight)


def test_map_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="N tokens to the same N tokens, not 7 to 5"):
        mix_residual(stochastic(B, 5, 7))


# ------------------------------------------------------------------------------------- rollout


@pytest.mark.parametrize("start_layer", [0, 1, L - 1])
@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("maps", [stochastic, non_negative])
def test_rollout_agrees_with_slow_loops(maps, residual, start_layer):
    attention = maps(L, B, N, N)

    rolled = attention_rollout(attention, residual=residual, start_layer=start_layer)

    assert_close(rolled, slow_rollout(attention, residual, start_layer), **EXACT)


def test_rollout_of_two_layers_has_the_upper_layer_on_the_left():
    lower = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)

    rolled = attention_rollout(torch.stack([lower, upper])[:, None], residual=0.0)

    assert_close(rolled[0], torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64), **EXACT)


@quickly
@given(SEEDS)
def test_rollout_depends_on_the_order_of_layers(seed):
    attention = stochastic(L, B, N, N, seed=seed)

    difference = attention_rollout(attention) - attention_rollout(attention.flip(0))

    assert difference.abs().max() > 1e-6


@quickly
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 8), st.floats(0, 1), SEEDS)
def test_rollout_rows_sum_to_one(layers, batch, tokens, residual, seed):
    attention = stochastic(layers, batch, tokens, tokens, seed=seed)

    rolled = attention_rollout(attention, residual=residual)

    assert (rolled >= 0).all()
    assert_close(rolled.sum(-1), torch.ones(batch, tokens, dtype=torch.float64), **EXACT)


@quickly
@given(st.floats(0, 1), st.integers(0, L - 1))
def test_rollout_of_identity_attention_is_identity(residual, start_layer):
    identity = torch.eye(N, dtype=torch.float64)

    rolled = attention_rollout(identity.expand(L, B, N, N), residual=residual, start_layer=start_layer)

    assert_close(rolled, identity.expand(B, N, N), **EXACT)


@quickly
@given(SEEDS)
def test_rollout_with_nothing_but_the_residual_is_identity(seed):
    rolled = attention_rollout(stochastic(L, B, N, N, seed=seed), residual=1.0)

    assert_close(rolled, torch.eye(N, dtype=torch.float64).expand(B, N, N), **EXACT)


@quickly
@given(st.permutations(range(N)), st.floats(0, 1), SEEDS)
def test_permuting_tokens_permutes_the_rollout(order, residual, seed):
    attention = stochastic(L, B, N, N, seed=seed)

    permuted = attention_rollout(attention[..., order, :][..., order], residual=residual)

    assert_close(permuted, attention_rollout(attention, residual=residual)[..., order, :][..., order], **EXACT)


@quickly
@given(st.floats(0, 1), st.integers(0, L - 1), SEEDS)
def test_rollout_of_a_batch_is_the_stack_of_single_rollouts(residual, start_layer, seed):
    attention = stochastic(L, B, N, N, seed=seed)

    rolled = attention_rollout(attention, residual=residual, start_layer=start_layer)

    for sample in range(B):
        alone = attention_rollout(attention[:, sample : sample + 1], residual=residual, start_layer=start_layer)
        assert_close(rolled[sample], alone[0], **EXACT)


@quickly
@given(st.sampled_from([stochastic, non_negative]), st.floats(0.01, 1), st.integers(0, L - 1), SEEDS)
def test_rollout_rows_equal_the_rows_of_the_matrix(maps, residual, start_layer, seed):
    attention, readout = maps(L, B, N, N, seed=seed), non_negative(B, 2, N, seed=seed + 1)
    options = {"residual": residual, "start_layer": start_layer}

    rows = attention_rollout_rows(attention, readout, **options)

    assert_close(rows, readout @ attention_rollout(attention, **options), rtol=0.0, atol=1e-10)
    assert_close(rows.sum(-1), readout.sum(-1), rtol=0.0, atol=1e-10)


def test_rollout_from_a_start_layer_is_the_rollout_of_the_layers_above():
    attention, readout = stochastic(L, B, N, N), non_negative(B, 2, N)

    for start in range(L):
        upper = attention_rollout(attention[start:])
        assert_close(attention_rollout(attention, start_layer=start), upper, **EXACT)
        assert_close(attention_rollout_rows(attention, readout, start_layer=start), readout @ upper, **EXACT)


@pytest.mark.parametrize("start_layer", [-1, L, L + 3])
def test_start_layer_that_does_not_exist_is_refused(start_layer):
    with pytest.raises(ValueError, match=rf"start_layer must be one of the {L} layers 0 to {L - 1}, not {start_layer}"):
        attention_rollout(stochastic(L, B, N, N), start_layer=start_layer)
    with pytest.raises(ValueError, match=rf"start_layer must be one of the {L} layers 0 to {L - 1}, not {start_layer}"):
        attention_rollout_rows(stochastic(L, B, N, N), stochastic(B, 1, N), start_layer=start_layer)


# ------------------------------------------------------------------------------------- discarding


def slow_discard(attention, ratio, n_padding_left=0, n_real=None):
    """One map: zero the smallest share of the entries between real tokens; of equal entries the earlier go first."""
    n_real = len(attention) if n_real is None else n_real
    real = range(n_padding_left, n_padding_left + n_real)
    entries = sorted((float(attention[i, j]), i, j) for i in real for j in real)
    thinned = attention.clone()
    for _, i, j in entries[: int(len(entries) * ratio)]:
        thinned[i, j] = 0.0
    return thinned


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.9, 0.99])
def test_discarding_agrees_with_slow_loops(ratio):
    attention = stochastic(B, N, N)

    thinned = discard_lowest(attention, ratio)

    assert_close(thinned, torch.stack([slow_discard(sample, ratio) for sample in attention]), **EXACT)


@pytest.mark.parametrize("left", [False, True])
@quickly
@given(st.lists(st.integers(1, 6), min_size=3, max_size=3), st.sampled_from([0.0, 0.25, 0.5, 0.75]), SEEDS)
def test_discarding_counts_the_real_tokens_of_each_sample(left, lengths, ratio, seed):
    attention = stochastic(3, 6, 6, seed=seed)
    positions, starts = torch.arange(6), torch.tensor([6 - length if left else 0 for length in lengths])[:, None]
    padding = (positions < starts) | (positions >= starts + torch.tensor(lengths)[:, None])

    thinned = discard_lowest(attention, ratio, padding=padding)

    for sample, length in enumerate(lengths):
        expected = slow_discard(attention[sample], ratio, int(starts[sample]), length)
        assert_close(thinned[sample], expected, **EXACT)
        real = ~padding[sample]
        alone = discard_lowest(attention[sample][real][:, real][None], ratio)[0]
        assert_close(thinned[sample][real][:, real], alone, **EXACT)


def test_of_equal_entries_the_earlier_are_discarded():
    attention = torch.full((2, 3, 3), 1 / 3, dtype=torch.float64)

    thinned = discard_lowest(attention, 0.5)

    expected = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1, 1], dtype=torch.float64).reshape(3, 3) / 3
    assert_close(thinned, expected.expand(2, 3, 3), **EXACT)


def test_discarding_leaves_its_argument_as_it_was():
    attention = stochastic(B, N, N)
    before = attention.clone()

    discard_lowest(attention, 0.5)

    assert_close(attention, before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_discard_ratio_outside_its_interval_is_refused(ratio):
    with pytest.raises(ValueError, match="discard_ratio must be at least 0 and below 1, not"):
        discard_lowest(stochastic(B, N, N), ratio)


def test_discarded_entries_are_counted_as_python_rounds_their_share():
    attention = stochastic(1, 10, 10)

    # 0.29 · 100 is just below 29 in double precision, and 29 in single precision.
    assert int((discard_lowest(attention, 0.29) == 0).sum()) == int(100 * 0.29) == 28


@pytest.mark.parametrize("spare", ["nothing", "first_entry", "first_token"])
@pytest.mark.parametrize("left", [0, 2])
def test_what_is_spared_is_counted_but_not_discarded(spare, left):
    attention = stochastic(B, N, N)
    padding = (torch.arange(N) < left).expand(B, -1)
    kept = {
        "nothing": set(),
        "first_entry": {(left, left)},
        "first_token": {(i, j) for i in range(left, N) for j in range(left, N) if left in (i, j)},
    }[spare]

    thinned = discard_lowest(attention, 0.8, padding=padding, spare=spare)

    for sample in range(B):
        expected = slow_discard(attention[sample], 0.8, left, N - left)
        for i, j in kept:
            expected[i, j] = attention[sample, i, j]
        assert_close(thinned[sample, left:, left:], expected[left:, left:], **EXACT)


def test_unknown_ways_to_spare_are_refused():
    with pytest.raises(ValueError, match="spare must be 'nothing', 'first_entry' or 'first_token', not 'cls'"):
        discard_lowest(stochastic(B, N, N), 0.5, spare="cls")


# ------------------------------------------------------------------------------------- other row normalisations


@pytest.mark.parametrize("maps", [stochastic, non_negative])
def test_vit_explain_divides_columns_by_the_sums_of_rows(maps):
    attention = maps(B, N, N)

    mixed = mix_residual(attention, 0.3, row_normalize="vit_explain")

    for sample in range(B):
        for i in range(N):
            for j in range(N):
                row = [0.7 * float(attention[sample, j, k]) + 0.3 * (j == k) for k in range(N)]
                entry = 0.7 * float(attention[sample, i, j]) + 0.3 * (i == j)
                assert_close(mixed[sample, i, j].item(), entry / sum(row), **EXACT)


def test_rows_may_be_left_unnormalised():
    attention = non_negative(B, N, N)

    mixed = mix_residual(attention, 0.3, row_normalize=False)

    assert_close(mixed, 0.7 * attention + 0.3 * torch.eye(N, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("row_normalize", [False, "vit_explain"])
def test_rollout_multiplies_the_layers_as_they_are_normalised(row_normalize):
    attention, readout = non_negative(L, B, N, N), non_negative(B, 2, N)
    options = {"residual": 0.4, "row_normalize": row_normalize}

    rolled = attention_rollout(attention, start_layer=1, **options)

    for sample in range(B):
        second, third, top = (
            mix_residual(attention[layer, sample], 0.4, row_normalize=row_normalize) for layer in (1, 2, 3)
        )
        assert_close(rolled[sample], slow_product(top, slow_product(third, second)), **EXACT)
    assert_close(attention_rollout_rows(attention, readout, start_layer=1, **options), readout @ rolled, **EXACT)


def test_unknown_row_normalisation_is_refused():
    with pytest.raises(ValueError, match="row_normalize must be True, False or 'vit_explain', not 'columns'"):
        mix_residual(stochastic(B, N, N), row_normalize="columns")


def test_columns_cannot_be_divided_by_the_sums_of_some_rows():
    with pytest.raises(ValueError, match="it needs all rows"):
        mix_residual(stochastic(B, 2, N), rows=torch.tensor([0, 3]), row_normalize="vit_explain")
