"""Recomputed probabilities are those of torch's fused attention; their gradient is autograd's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from attrib_plugin.functional import attention_gradient, attention_probabilities

B, H, Q, K, D, V = 2, 6, 5, 7, 4, 3
EXACT = {"rtol": 0.0, "atol": 1e-12}


def tensors(key_heads=H, queries=Q, dtype=torch.float64):
    query = torch.randn(B, H, queries, D, dtype=torch.float64)
    key = torch.randn(B, key_heads, K, D, dtype=torch.float64)
    value = torch.randn(B, key_heads, K, V, dtype=torch.float64)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def boolean_mask(*shape):
    mask = torch.rand(shape) < 0.6
    mask[..., 0] = True
    return mask


def attended(probabilities, value):
    return probabilities @ value.repeat_interleave(H // value.shape[1], dim=1)


def slow_probabilities(query, key, mask=None, is_causal=False, scale=None):
    """Softmax of scaled products, one number at a time."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    group = query.shape[1] // key.shape[1]
    probabilities = torch.zeros(*query.shape[:3], key.shape[2], dtype=torch.float64)
    mask = None if mask is None else mask.expand(probabilities.shape)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        exponentials = []
        for k in range(key.shape[2]):
            score = scale * sum((query[b, h, q] * key[b, h // group, k]).tolist())
            hidden = is_causal and k > q
            if mask is not None and mask.dtype is torch.bool:
                hidden = hidden or not mask[b, h, q, k]
            elif mask is not None:
                score += float(mask[b, h, q, k])
            exponentials.append(0.0 if hidden else math.exp(score))
        for k, exponential in enumerate(exponentials):
            probabilities[b, h, q, k] = exponential / sum(exponentials) if sum(exponentials) else 0.0
    return probabilities


MASKS = {
    "none": lambda: None,
    "boolean, all queries alike": lambda: boolean_mask(B, 1, 1, K),
    "boolean, samples and heads alike": lambda: boolean_mask(Q, K),
    "boolean, one for each head": lambda: boolean_mask(1, H, Q, K),
    "additive": lambda: torch.randn(B, 1, Q, K, dtype=torch.float64),
    "additive with infinities": lambda: torch.zeros(B, 1, 1, K, dtype=torch.float64).masked_fill(
        ~boolean_mask(B, 1, 1, K), -math.inf
    ),
    "additive with the lowest number": lambda: torch.zeros(B, H, Q, K, dtype=torch.float64).masked_fill(
        ~boolean_mask(B, H, Q, K), torch.finfo(torch.float64).min
    ),
}


@pytest.mark.parametrize("scale", [None, 0.3, 0.0, -1.0])
@pytest.mark.parametrize("key_heads", [H, 3, 1])
@pytest.mark.parametrize("mask", MASKS)
def test_probabilities_times_values_are_the_output_of_fused_attention(mask, key_heads, scale):
    query, key, value = tensors(key_heads)
    mask = MASKS[mask]()
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=key_heads < H)

    probabilities = attention_probabilities(query, key, mask=mask, scale=scale)

    assert_close(attended(probabilities, value), expected, **EXACT)


@pytest.mark.parametrize("queries", [Q, K, K + 2])
@pytest.mark.parametrize("key_heads", [H, 2])
def test_causal_probabilities_times_values_are_the_output_of_fused_attention(queries, key_heads):
    query, key, value = tensors(key_heads, queries)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=key_heads < H)

    probabilities = attention_probabilities(query, key, is_causal=True)

    assert_close(attended(probabilities, value), expected, **EXACT)


@pytest.mark.parametrize("additive", [False, True])
def test_fully_masked_rows_are_zero_as_in_fused_attention(additive):
    query, key, value = tensors()
    mask = boolean_mask(B, 1, Q, K)
    mask[1, :, 2] = False
    if additive:
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf)

    probabilities = attention_probabilities(query, key, mask=mask)

    assert not probabilities[1, :, 2].any()
    assert_close(probabilities.sum(-1)[0], torch.ones(H, Q, dtype=torch.float64), **EXACT)
    assert_close(attended(probabilities, value), F.scaled_dot_product_attention(query, key, value, mask), **EXACT)


def test_rows_hidden_by_the_lowest_number_are_uniform_as_in_fused_attention():
    query, key, value = tensors()
    mask = torch.full((B, 1, Q, K), torch.finfo(torch.float64).min, dtype=torch.float64)

    probabilities = attention_probabilities(query, key, mask=mask)

    assert_close(probabilities, torch.full_like(probabilities, 1 / K), **EXACT)
    assert_close(attended(probabilities, value), F.scaled_dot_product_attention(query, key, value, mask), **EXACT)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}])
@pytest.mark.parametrize("mask", MASKS)
def test_probabilities_agree_with_slow_loops(mask, options):
    query, key, _ = tensors(key_heads=2)
    mask = MASKS[mask]()

    probabilities = attention_probabilities(query, key, mask=mask, **options)

    assert_close(probabilities, slow_probabilities(query, key, mask, **options), **EXACT)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("rows", [[3], [4, 0, 2], [1, 1], []])
@pytest.mark.parametrize("mask", MASKS)
def test_some_rows_are_rows_of_all(mask, rows, is_causal):
    query, key, _ = tensors(key_heads=3)
    mask, rows = MASKS[mask](), torch.tensor(rows, dtype=torch.long)

    some = attention_probabilities(query, key, mask=mask, is_causal=is_causal, rows=rows)

    everything = attention_probabilities(query, key, mask=mask, is_causal=is_causal)
    assert_close(some, everything[:, :, rows], **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    query, key, value = tensors(key_heads=2, dtype=dtype)
    mask = torch.zeros(B, 1, 1, K, dtype=dtype).masked_fill(~boolean_mask(B, 1, 1, K), torch.finfo(dtype).min)
    output_gradient = torch.randn(B, H, Q, V, dtype=dtype)

    probabilities = attention_probabilities(query, key, mask=mask)
    gradient = attention_gradient(output_gradient, value)

    expected = attention_probabilities(query.float(), key.float(), mask=mask.float())
    assert_close(probabilities, expected, rtol=0.0, atol=1e-6)
    assert_close(gradient, attention_gradient(output_gradient.float(), value.float()), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("rows", [None, [3], [4, 0, 2]])
@pytest.mark.parametrize("key_heads", [H, 2])
@pytest.mark.parametrize("mask", ["none", "boolean, all queries alike", "additive"])
def test_gradient_is_that_of_autograd_through_an_explicit_softmax(mask, key_heads, rows):
    query, key, value = tensors(key_heads)
    mask, rows = MASKS[mask](), None if rows is None else torch.tensor(rows)
    scores = query @ key.repeat_interleave(H // key_heads, dim=1).transpose(-1, -2) / math.sqrt(D)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    probabilities = scores.softmax(-1).requires_grad_()
    output = attended(probabilities, value)
    score = (output.sin() * torch.randn_like(output)).sum()
    expected, output_gradient = torch.autograd.grad(score, [probabilities, output])

    gradient = attention_gradient(output_gradient, value, rows=rows)

    assert_close(gradient, expected if rows is None else expected[:, :, rows], **EXACT)


def test_gradient_agrees_with_slow_loops():
    _, _, value = tensors(key_heads=3)
    output_gradient = torch.randn(B, H, Q, V, dtype=torch.float64)
    expected = torch.zeros(B, H, Q, K, dtype=torch.float64)
    for b, h, q, k in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        expected[b, h, q, k] = sum((output_gradient[b, h, q] * value[b, h // 2, k]).tolist())

    gradient = attention_gradient(output_gradient, value)

    assert_close(gradient, expected, **EXACT)


def test_arguments_are_left_as_they_were():
    query, key, _ = tensors()
    mask = boolean_mask(B, 1, Q, K)
    before = query.clone(), key.clone(), mask.clone()

    attention_probabilities(query, key, mask=mask, is_causal=True)

    for tensor, copy in zip((query, key, mask), before, strict=True):
        assert_close(tensor, copy, rtol=0.0, atol=0.0)
