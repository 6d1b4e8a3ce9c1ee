"""Relevance through softmax attention against slow loops over the two matrix products."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional.lrp import EXACT, Stabilizer, attention, halves, probability_relevance
from attrib_plugin.functional.lrp import product_rules_attention as rule

B, H, Q, K, D, E = 2, 4, 5, 3, 3, 2
TIGHT = {"rtol": 1e-10, "atol": 1e-11}
UNSIGNED = Stabilizer(epsilon=1e-3, signed=False)
quickly = settings(max_examples=15, deadline=None, derandomize=True)


def case(seed=0, keys=K, key_heads=H):
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, H, Q, D), (B, key_heads, keys, D), (B, key_heads, keys, E), (B, H, Q, E)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def divided(numerator, denominator, divide):
    if denominator == 0:
        return 0.0
    return numerator / (denominator + divide.epsilon * (-1 if divide.signed and denominator < 0 else 1))


def slow_product(left, right, relevance, divide):
    """Both operands of Z = L·R for one sample and head: R_l = l · Σ (R/Z)·r, not yet halved."""
    of_left, of_right = torch.zeros_like(left), torch.zeros_like(right)
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            terms = [float(left[i, k] * right[k, j]) for k in range(left.shape[1])]
            share = divided(float(relevance[i, j]), math.fsum(terms), divide)
            for k, term in enumerate(terms):
                of_left[i, k] += term * share
                of_right[k, j] += term * share
    return of_left, of_right


def slow_probabilities(query, key, bias, scale):
    scores = query @ key.T * scale + bias
    rows = []
    for row in scores.tolist():
        top = max(row)
        powers = [0.0 if top == -math.inf else math.exp(one - top) for one in row]
        rows.append([one / sum(powers) if sum(powers) else 0.0 for one in powers])
    return torch.tensor(rows, dtype=torch.float64)


def slow_attention(tensors, bias, *, scale=None, divide=EXACT, shares=(0.5, 0.5, 0.5, 0.5)):
    """Relevance of Q, K, V and of the probabilities; ``shares`` are those of A, V, Q and K."""
    query, key, value, relevance = tensors
    found = [torch.zeros_like(one) for one in (query, query[..., :1, :1].expand(B, H, *key.shape[-2:]).clone())]
    found += [torch.zeros(B, H, *value.shape[-2:], dtype=torch.float64), torch.zeros(B, H, Q, key.shape[-2]).double()]
    groups = H // key.shape[1]
    for b in range(B):
        for h in range(H):
            q, k, v = query[b, h], key[b, h // groups], value[b, h // groups]
            probs = slow_probabilities(q, k, bias[b, h], 1 / math.sqrt(D) if scale is None else scale)
            of_probs, of_value = slow_product(probs, v, relevance[b, h], divide)
            # Softmax, mask and scale pass relevance on as it is.
            of_query, of_key = slow_product(q, k.T, shares[0] * of_probs, divide)
            found[0][b, h], found[1][b, h] = shares[2] * of_query, shares[3] * of_key.T
            found[2][b, h], found[3][b, h] = shares[1] * of_value, 0.5 * of_probs
    by_group = [one.reshape(B, -1, groups, *one.shape[-2:]).sum(2) for one in found[1:3]]
    return found[0], *by_group, found[3]


def run(tensors, **options):
    query, key, value, relevance = tensors
    mask, causal = options.get("mask"), options.get("is_causal", False)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=options.get("scale"), enable_gqa=True
    )
    return rule(query, key, value, torch.nan_to_num(output), relevance, **options)


def additive():
    return torch.randn(H, Q, K, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


MASKS = {
    "none": (lambda: {}, lambda: torch.zeros(Q, K).double()),
    "bool": (
        lambda: {"mask": torch.tensor([True, False, True]).expand(B, 1, Q, K)},
        lambda: torch.tensor([0.0, -math.inf, 0.0]).double(),
    ),
    "additive": (lambda: {"mask": additive()}, additive),
    "causal": (lambda: {"is_causal": True}, lambda: torch.full((Q, K), -math.inf).double().triu(1)),
    "scale": (lambda: {"scale": 0.3}, lambda: torch.zeros(Q, K).double()),
}


@pytest.mark.parametrize("divide", [EXACT, UNSIGNED])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("key_heads", [H, 2])
def test_attention_rule_agrees_with_slow_loops(kind, key_heads, divide):
    tensors = case(key_heads=key_heads)
    options, bias = MASKS[kind][0](), MASKS[kind][1]()

    found = run(tensors, divide=divide, **options)

    expected = slow_attention(tensors, bias.expand(B, H, Q, K), scale=options.get("scale"), divide=divide)
    for one, slow in zip(found, expected[:3], strict=True):
        assert_close(one, slow, **TIGHT)


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
@pytest.mark.parametrize("mask_sum", ["ignored", "proportional", "conserving"])
def test_blocks_of_rows_change_nothing(monkeypatch, rows_at_once, mask_sum):
    tensors, options = case(), {"mask": additive(), "mask_sum": mask_sum, "divide": UNSIGNED}
    whole = run(tensors, **options)

    monkeypatch.setattr(attention, "BLOCK_BYTES", rows_at_once * B * H * K * 8)
    calls = []
    monkeypatch.setattr(attention, "attention_probabilities", counted(attention.attention_probabilities, calls))
    found = run(tensors, **options)

    assert len(calls) == math.ceil(Q / rows_at_once)
    for one, expected in zip(found, whole, strict=True):
        assert_close(one, expected, rtol=1e-12, atol=1e-13)


def counted(function, calls):
    def count(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return count


@pytest.mark.parametrize(
    ("carries", "shares"),
    [
        ((True, True, True), (0.5, 0.5, 0.5, 0.5)),
        ((True, False, True), (0.5, 0.5, 1.0, 0.0)),
        ((False, True, True), (0.5, 0.5, 0.0, 1.0)),
        ((True, True, False), (1.0, 0.0, 0.5, 0.5)),
        ((True, False, False), (1.0, 0.0, 1.0, 0.0)),
        ((False, False, True), (0.0, 1.0, 0.0, 0.0)),
    ],
)
def test_share_of_a_constant_goes_to_the_other_operand(carries, shares):
    tensors = case()

    found = run(tensors, carries=carries)

    expected = slow_attention(tensors, torch.zeros(B, H, Q, K).double(), shares=shares)
    for one, slow in zip(found, expected[:3], strict=True):
        assert_close(one, slow, **TIGHT)


@pytest.mark.parametrize(("first", "second", "shares"), [(1, 1, (0.5, 0.5)), (1, 0, (1, 0)), (0, 1, (0, 1))])
def test_operands_of_a_product_share_by_halves_unless_one_is_a_constant(first, second, shares):
    assert halves(bool(first), bool(second)) == shares


def test_relevance_of_probabilities_agrees_with_slow_loops():
    tensors = case()
    query, key, value, relevance = tensors
    probs = torch.softmax(query @ key.mT / math.sqrt(D), -1)

    found = probability_relevance(probs, relevance / (probs @ value), value)

    expected = slow_attention(tensors, torch.zeros(B, H, Q, K).double())[3]
    assert_close(found, expected, **TIGHT)
    rows = torch.tensor([3, 0])
    some = probability_relevance(probs[..., rows, :], relevance / (probs @ value), value, rows)
    assert_close(some, expected[..., rows, :], **TIGHT)


@quickly
@given(seed=st.integers(0, 10_000))
def test_relevance_of_attention_is_conserved(seed):
    tensors = case(seed)

    found = run(tensors)

    total = sum(one.sum((1, 2, 3)) for one in found)
    scale = float(sum(one.abs().sum() for one in found))
    assert_close(total, tensors[3].sum((1, 2, 3)), rtol=0, atol=1e-12 * scale)


def test_a_row_that_may_attend_to_nothing_passes_nothing():
    tensors = case()
    mask = torch.ones(B, 1, Q, K, dtype=torch.bool)
    mask[1, :, 2] = False

    found = run(tensors, mask=mask)

    assert not found[0][1, :, 2].any()
    assert all(torch.isfinite(one).all() for one in found)


def test_padded_keys_have_no_relevance_and_change_nothing():
    query, key, value, relevance = case()
    padded = [torch.cat([one, torch.randn(B, H, 2, one.shape[-1]).double()], 2) for one in (key, value)]
    mask = torch.tensor([True] * K + [False] * 2).expand(B, 1, Q, K + 2)

    found = run([query, *padded, relevance], mask=mask)

    plain = run([query, key, value, relevance])
    assert_close(found[0], plain[0], **TIGHT)
    for one, expected in zip(found[1:], plain[1:], strict=True):
        assert not one[:, :, K:].any()
        assert_close(one[:, :, :K], expected, **TIGHT)


@pytest.mark.parametrize("mask", [None, "additive"])
def test_conserving_mask_sum_rescales_scores_of_each_sample_to_the_total_of_probabilities(mask):
    tensors = case()
    mask = additive() if mask else None
    divide = Stabilizer(epsilon=1e-2, signed=False)

    found = run(tensors, mask=mask, mask_sum="conserving", divide=divide)

    query, key = tensors[:2]
    of_probs = slow_attention(tensors, (0 if mask is None else mask) + torch.zeros(B, H, Q, K).double(), divide=divide)[
        3
    ]
    for b in range(B):
        # The mask is a constant: R_scores = s·R/(s + ε) with the scaled score s, then |ΣR_s|/|ΣR_s| · ΣR / ΣR_s.
        of_scores, total = torch.zeros(H, Q, K).double(), 0.0
        for h in range(H):
            for i in range(Q):
                for j in range(K):
                    score = float(query[b, h, i] @ key[b, h, j]) / math.sqrt(D)
                    of_scores[h, i, j] = score * divided(float(of_probs[b, h, i, j]), score, divide)
                    total += float(of_probs[b, h, i, j])
        after = math.fsum(of_scores.flatten().tolist())
        of_scores *= divided(divided(abs(after), abs(after), divide) * total, after, divide)
        for h in range(H):
            of_query, of_key = slow_product(query[b, h], key[b, h].T, of_scores[h], divide)
            assert_close(found[0][b, h], of_query / 2, **TIGHT)
            assert_close(found[1][b, h], of_key.T / 2, **TIGHT)


def test_proportional_mask_sum_is_felt_through_the_stabilizer_alone():
    tensors = case()

    assert_close(run(tensors, mask_sum="proportional"), run(tensors), rtol=0, atol=0)
    damped, plain = run(tensors, mask_sum="proportional", divide=UNSIGNED), run(tensors, divide=UNSIGNED)
    assert (damped[0] - plain[0]).abs().max() > 1e-5
    assert_close(damped[2], plain[2], rtol=0, atol=0)


def test_samples_of_a_batch_are_explained_as_alone():
    tensors = case()

    for mask_sum in ("ignored", "conserving"):
        singles = [run([one[i : i + 1] for one in tensors], mask_sum=mask_sum) for i in range(B)]
        for found, alone in zip(run(tensors, mask_sum=mask_sum), zip(*singles, strict=True), strict=True):
            assert_close(found, torch.cat(alone), **TIGHT)
