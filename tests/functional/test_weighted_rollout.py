"""Gradient-weighted rollout against slow loops, and what must hold for every attention and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional import (
    gradient_rollout,
    gradient_rollout_rows,
    gradient_weighted_attention,
    row_normalized_gain,
    score_gradients,
)

L, B, H, N = 4, 3, 2, 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}
SEEDS = st.integers(0, 10_000)
SIGNS = ("positive", "negative", "signed")
OPTIONS = {"sign": st.sampled_from(SIGNS), "row_normalize": st.booleans(), "start_layer": st.integers(0, L - 1)}
quickly = settings(max_examples=25, deadline=None, derandomize=True)


def tensors(seed=0, layers=L, tokens=N):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(layers, B, H, tokens, tokens, generator=generator, dtype=torch.float64).softmax(-1)
    return probs, torch.randn(probs.shape, generator=generator, dtype=torch.float64)


def slow_evidence(probs, gradients, sign):
    """E_h[(±∂A ⊙ A)⁺] of one layer and one sample: the positive part first, then the mean."""
    n_heads, n_tokens, _ = probs.shape
    evidence = torch.zeros(n_tokens, n_tokens, dtype=torch.float64)
    for i in range(n_tokens):
        for j in range(n_tokens):
            products = [sign * float(probs[h, i, j] * gradients[h, i, j]) for h in range(n_heads)]
            evidence[i, j] = sum(max(product, 0.0) for product in products) / n_heads
    return evidence


def slow_normalized(matrix):
    return torch.stack([row / sum(row.tolist()) for row in matrix])


def slow_rollout(probs, gradients, sign, start_layer, row_normalize):
    """R ← M R from R = I with M = I + E, rows of M normalised if asked for; signed: the difference of both signs."""
    if sign == "signed":
        both = (slow_rollout(probs, gradients, one, start_layer, row_normalize) for one in ("positive", "negative"))
        return torch.sub(*both)
    rolled = []
    for sample in range(probs.shape[1]):
        relevance = torch.eye(probs.shape[-1], dtype=torch.float64)
        for layer in range(start_layer, len(probs)):
            evidence = slow_evidence(probs[layer, sample], gradients[layer, sample], 1 if sign == "positive" else -1)
            matrix = torch.eye(len(evidence), dtype=torch.float64) + evidence
            matrix = slow_normalized(matrix) if row_normalize else matrix
            relevance = torch.stack([sum(row[k] * relevance[k] for k in range(len(row))) for row in matrix])
        rolled.append(relevance)
    return torch.stack(rolled)


# ------------------------------------------------------------------------------------- evidence of a layer


@pytest.mark.parametrize(("sign", "factor"), [("positive", 1), ("negative", -1)])
def test_weighted_attention_agrees_with_slow_loops(sign, factor):
    probs, gradients = tensors()

    evidence = gradient_weighted_attention(probs, gradients, sign=sign)

    for layer in range(L):
        for sample in range(B):
            expected = slow_evidence(probs[layer, sample], gradients[layer, sample], factor)
            assert_close(evidence[layer, sample], expected, **EXACT)


def test_positive_part_is_taken_before_the_mean_over_heads():
    probs = torch.full((1, 2, 1, 1), 0.5, dtype=torch.float64)
    gradients = torch.tensor([4.0, -8.0], dtype=torch.float64).reshape(1, 2, 1, 1)

    positive, negative = (gradient_weighted_attention(probs, gradients, sign=sign) for sign in SIGNS[:2])

    assert_close(positive.item(), 1.0, **EXACT)
    assert_close(negative.item(), 2.0, **EXACT)


@quickly
@given(SEEDS)
def test_evidence_against_a_score_is_evidence_for_its_negative(seed):
    probs, gradients = tensors(seed)

    negative = gradient_weighted_attention(probs, gradients, sign="negative")

    assert (negative >= 0).all()
    assert_close(negative, gradient_weighted_attention(probs, -gradients), rtol=0.0, atol=0.0)


@quickly
@given(SEEDS)
def test_evidence_for_minus_evidence_against_is_the_mean_of_the_products(seed):
    probs, gradients = tensors(seed)

    positive, negative = (gradient_weighted_attention(probs, gradients, sign=sign) for sign in SIGNS[:2])

    assert_close(positive - negative, (probs * gradients).mean(-3), **EXACT)


@pytest.mark.parametrize("sign", ["signed", "both", "", None])
def test_evidence_of_another_sign_is_refused(sign):
    with pytest.raises(ValueError, match="sign must be 'positive' or 'negative' here, not"):
        gradient_weighted_attention(*tensors(), sign=sign)


# ------------------------------------------------------------------------------------- row normalisation


@quickly
@given(st.floats(-3, 6), SEEDS)
def test_gain_is_the_normalised_layer_minus_the_identity(magnitude, seed):
    evidence = gradient_weighted_attention(*tensors(seed)) * 10**magnitude
    identity = torch.eye(N, dtype=torch.float64)
    layer = identity + evidence

    gain = row_normalized_gain(evidence)

    assert_close(gain, layer / layer.sum(-1, keepdim=True) - identity, **EXACT)
    assert_close(gain.sum(-1), torch.zeros(L, B, N, dtype=torch.float64), **EXACT)


def test_gain_of_tiny_evidence_is_not_lost_beside_the_identity():
    evidence = 1e-30 * gradient_weighted_attention(*tensors())

    gain = row_normalized_gain(evidence)

    first_order = evidence - torch.diag_embed(evidence.sum(-1))
    assert_close(gain, first_order, rtol=1e-12, atol=0.0)


@quickly
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=N, unique=True), SEEDS)
def test_gain_of_some_rows_is_some_rows_of_the_gain(rows, seed):
    evidence, rows = gradient_weighted_attention(*tensors(seed)), torch.tensor(rows)

    some = row_normalized_gain(evidence[..., rows, :], rows=rows)

    assert_close(some, row_normalized_gain(evidence)[..., rows, :], **EXACT)


def test_gain_leaves_its_argument_as_it_was_and_is_zero_without_evidence():
    evidence = torch.zeros(B, N, N, dtype=torch.float64)

    gain = row_normalized_gain(evidence)
    gain += 1

    assert not evidence.any()
    assert_close(row_normalized_gain(evidence), evidence, rtol=0.0, atol=0.0)


# ------------------------------------------------------------------------------------- rollout


@pytest.mark.parametrize("start_layer", [0, 1, L - 1])
@pytest.mark.parametrize("row_normalize", [False, True])
@pytest.mark.parametrize("sign", SIGNS)
def test_rollout_agrees_with_slow_loops(sign, row_normalize, start_layer):
    probs, gradients = tensors()

    relevance = gradient_rollout(probs, gradients, sign=sign, row_normalize=row_normalize, start_layer=start_layer)

    assert_close(relevance, slow_rollout(probs, gradients, sign, start_layer, row_normalize), **EXACT)


def test_rollout_is_positive_over_all_layers_and_not_normalised_unless_something_else_is_asked_for():
    probs, gradients = tensors()
    plain = {"sign": "positive", "row_normalize": False, "start_layer": 0}
    readout = torch.eye(N, dtype=torch.float64).expand(B, N, N)

    relevance = gradient_rollout(probs, gradients)
    rows = gradient_rollout_rows(probs, gradients, readout)

    assert_close(relevance, gradient_rollout(probs, gradients, **plain), rtol=0.0, atol=0.0)
    assert_close(rows, gradient_rollout_rows(probs, gradients, readout, **plain), rtol=0.0, atol=0.0)


@quickly
@given(seed=SEEDS, **OPTIONS)
def test_rollout_rows_equal_the_rows_of_the_matrix_without_their_start(seed, sign, row_normalize, start_layer):
    probs, gradients = tensors(seed)
    readout = torch.rand(B, 2, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    options = {"sign": sign, "row_normalize": row_normalize, "start_layer": start_layer}

    rows = gradient_rollout_rows(probs, gradients, readout, **options)

    matrix = gradient_rollout(probs, gradients, **options)
    start = torch.zeros_like(readout) if sign == "signed" else readout
    assert_close(rows, readout @ matrix - start, rtol=1e-10, atol=1e-10)


@quickly
@given(SEEDS, st.booleans())
def test_tiny_relevance_is_not_lost_beside_the_start(seed, row_normalize):
    probs, gradients = tensors(seed)
    readout = torch.eye(N, dtype=torch.float64)[None, :1].expand(B, 1, N)

    tiny = gradient_rollout_rows(probs, 1e-30 * gradients, readout, row_normalize=row_normalize)

    evidence = gradient_weighted_attention(probs, gradients).sum(0)
    first_order = evidence - torch.diag_embed(evidence.sum(-1)) if row_normalize else evidence
    assert_close(tiny * 1e30, first_order[:, :1], rtol=1e-9, atol=1e-12)


@quickly
@given(st.permutations(range(N)), SEEDS, st.booleans())
def test_permuting_tokens_permutes_the_rollout(order, seed, row_normalize):
    probs, gradients = tensors(seed)

    permuted = gradient_rollout(
        *(tensor[..., order, :][..., order] for tensor in (probs, gradients)), row_normalize=row_normalize
    )

    expected = gradient_rollout(probs, gradients, row_normalize=row_normalize)[..., order, :][..., order]
    assert_close(permuted, expected, **EXACT)


@quickly
@given(seed=SEEDS, **OPTIONS)
def test_rollout_of_a_batch_is_the_stack_of_single_rollouts(seed, **options):
    probs, gradients = tensors(seed)

    relevance = gradient_rollout(probs, gradients, **options)

    for sample in range(B):
        alone = slice(sample, sample + 1)
        assert_close(relevance[alone], gradient_rollout(probs[:, alone], gradients[:, alone], **options), **EXACT)


@quickly
@given(SEEDS, st.booleans())
def test_rollout_against_a_score_is_the_rollout_for_its_negative(seed, row_normalize):
    probs, gradients = tensors(seed)
    options = {"row_normalize": row_normalize}

    negative = gradient_rollout(probs, gradients, sign="negative", **options)
    signed = gradient_rollout(probs, gradients, sign="signed", **options)

    assert_close(negative, gradient_rollout(probs, -gradients, **options), rtol=0.0, atol=0.0)
    assert_close(signed, gradient_rollout(probs, gradients, **options) - negative, **EXACT)


@pytest.mark.parametrize("row_normalize", [False, True])
def test_rollout_without_gradient_is_the_identity_and_adds_nothing_to_a_row(row_normalize):
    probs, gradients = tensors()
    readout = torch.rand(B, 2, N, dtype=torch.float64)

    relevance = gradient_rollout(probs, 0 * gradients, row_normalize=row_normalize)
    rows = gradient_rollout_rows(probs, 0 * gradients, readout, row_normalize=row_normalize)

    assert_close(relevance, torch.eye(N, dtype=torch.float64).expand(B, N, N), rtol=0.0, atol=0.0)
    assert not rows.any()


@quickly
@given(SEEDS)
def test_rows_of_the_normalised_rollout_sum_to_one(seed):
    relevance = gradient_rollout(*tensors(seed), row_normalize=True)

    assert (relevance >= 0).all()
    assert_close(relevance.sum(-1), torch.ones(B, N, dtype=torch.float64), **EXACT)


@quickly
@given(SEEDS)
def test_rollout_depends_on_the_order_of_layers_and_pairs_each_with_its_own_gradient(seed):
    probs, gradients = tensors(seed)

    relevance = gradient_rollout(probs, gradients)

    assert (relevance - gradient_rollout(probs.flip(0), gradients.flip(0))).abs().max() > 1e-6
    assert (relevance - gradient_rollout(probs, gradients.flip(0))).abs().max() > 1e-6


@pytest.mark.parametrize("sign", SIGNS)
def test_rollout_from_a_start_layer_is_the_rollout_of_the_layers_above(sign):
    probs, gradients = tensors()

    for start in range(L):
        upper = gradient_rollout(probs[start:], gradients[start:], sign=sign)
        assert_close(gradient_rollout(probs, gradients, sign=sign, start_layer=start), upper, **EXACT)


@pytest.mark.parametrize("sign", ["both", "", None])
def test_unknown_sign_is_refused(sign):
    with pytest.raises(ValueError, match="sign must be 'positive', 'negative' or 'signed', not"):
        gradient_rollout(*tensors(), sign=sign)
    with pytest.raises(ValueError, match="sign must be 'positive', 'negative' or 'signed', not"):
        gradient_rollout_rows(*tensors(), torch.rand(B, 1, N), sign=sign)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("start_layer", [-1, L])
def test_start_layer_that_does_not_exist_is_refused(start_layer, sign):
    with pytest.raises(ValueError, match=rf"start_layer must be one of the {L} layers 0 to {L - 1}, not {start_layer}"):
        gradient_rollout(*tensors(), sign=sign, start_layer=start_layer)
    with pytest.raises(ValueError, match=rf"start_layer must be one of the {L} layers 0 to {L - 1}, not {start_layer}"):
        gradient_rollout_rows(*tensors(), torch.rand(B, 1, N), sign=sign, start_layer=start_layer)


# ------------------------------------------------------------------------------------- as vit-explain does


@pytest.mark.parametrize(("sign", "factor"), [("positive", 1), ("negative", -1)])
def test_evidence_may_be_clamped_after_the_mean_over_heads(sign, factor):
    probs, gradients = tensors()

    evidence = gradient_weighted_attention(probs, gradients, sign=sign, clamp="mean")

    for place in ((0, 0, 1, 2), (1, 2, 4, 0), (3, 1, 3, 3)):
        layer, sample, i, j = place
        products = [factor * float(probs[layer, sample, h, i, j] * gradients[layer, sample, h, i, j]) for h in range(H)]
        assert_close(evidence[place].item(), max(sum(products) / H, 0.0), **EXACT)
    assert not torch.allclose(evidence, gradient_weighted_attention(probs, gradients, sign=sign))


def test_gradients_of_scores_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(L, B, H, N, N, generator=generator, dtype=torch.float64).requires_grad_()
    probs = scores.softmax(-1)
    of_probs = torch.randn(probs.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad((probs * of_probs).sum(), scores)

    assert_close(score_gradients(probs.detach(), of_probs), expected, **EXACT)


@quickly
@given(st.floats(-3, 6), SEEDS)
def test_gain_of_vit_explain_is_its_layer_minus_the_identity(magnitude, seed):
    evidence = gradient_weighted_attention(*tensors(seed)) * 10**magnitude
    identity = torch.eye(N, dtype=torch.float64)
    layer = identity + evidence

    gain = row_normalized_gain(evidence, row_normalize="vit_explain")

    assert_close(gain, layer / layer.sum(-1)[..., None, :] - identity, rtol=1e-10, atol=1e-10)


def test_gain_of_vit_explain_needs_all_rows():
    with pytest.raises(ValueError, match="it needs all rows"):
        row_normalized_gain(torch.rand(B, 2, N), rows=torch.tensor([0, 3]), row_normalize="vit_explain")


@pytest.mark.parametrize("sign", SIGNS)
def test_rollout_of_thinned_layers_agrees_with_slow_loops(sign):
    probs, gradients = tensors()
    options = {"start_layer": 1, "row_normalize": "vit_explain", "clamp": "mean", "discard_ratio": 0.4}

    rolled = gradient_rollout(probs, gradients, sign=sign, **options)

    factors = {"positive": (1,), "negative": (-1,), "signed": (1, -1)}[sign]
    for sample in range(B):
        parts = []
        for factor in factors:
            relevance = torch.eye(N, dtype=torch.float64)
            for layer in range(1, L):
                evidence = (factor * probs[layer, sample] * gradients[layer, sample]).mean(0).clamp(min=0)
                smallest = sorted((float(evidence[i, j]), i, j) for i in range(N) for j in range(N))[: int(N * N * 0.4)]
                for _, i, j in smallest:
                    evidence[i, j] = 0.0
                matrix = torch.eye(N, dtype=torch.float64) + evidence
                relevance = torch.stack([matrix[:, j] / matrix[j].sum() for j in range(N)], dim=1) @ relevance
            parts.append(relevance)
        assert_close(rolled[sample], parts[0] if len(parts) == 1 else parts[0] - parts[1], **EXACT)
    everything = torch.eye(N, dtype=torch.float64).expand(B, -1, -1)
    start = 0 if sign == "signed" else everything
    assert_close(gradient_rollout_rows(probs, gradients, everything, sign=sign, **options) + start, rolled, **EXACT)


@pytest.mark.parametrize(("option", "value"), [("clamp", "max"), ("row_normalize", "columns"), ("discard_ratio", 1.0)])
def test_unknown_options_of_a_rollout_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be .*, not {value!r}"):
        gradient_rollout(*tensors(), **{option: value})
