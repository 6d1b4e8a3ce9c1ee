"""A layer read in blocks of samples, heads, rows and keys gives what its whole matrix gives, for every kind of call."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_input, tiny_model
from torch.testing import assert_close

from attrib_plugin import AttentionRollout
from attrib_plugin.capture import visible_keys
from attrib_plugin.functional import fuse_heads, gradient_weighted_attention, mix_residual, row_normalized_gain
from attrib_plugin.methods.base import AttentionLayer, blocks, evidence_by_sign
from attrib_plugin.methods.base.blocks import Sizes, extents
from attrib_plugin.methods.base.layers import LayerRecord
from attrib_plugin.records import AttentionCall

B, H, N, D, V = 3, 6, 11, 4, 5
EXACT = {"rtol": 0.0, "atol": 1e-12}
CPU = torch.device("cpu")


def boolean_mask(*shape):
    mask = torch.rand(shape) < 0.6
    mask[..., 0] = True
    return mask


def window_mask(width):
    distance = torch.arange(N)[:, None] - torch.arange(N)
    return (distance.abs() <= width)[None, None]


def additive(mask, hidden):
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, hidden)


def without_first_query(mask):
    mask[..., 2, :] = False
    return mask


LOWEST = torch.finfo(torch.float64).min
MASKS = {
    "none": lambda: None,
    "padding": lambda: boolean_mask(B, 1, 1, N),
    "two axes": lambda: boolean_mask(N, N),
    "one for each sample": lambda: boolean_mask(B, 1, N, N),
    "one for each head": lambda: boolean_mask(1, H, N, N),
    "one for each sample and head": lambda: without_first_query(boolean_mask(B, H, N, N)),
    "three axes": lambda: boolean_mask(H, N, N),
    "a query without keys": lambda: without_first_query(boolean_mask(1, 1, N, N)),
    "window": lambda: window_mask(2),
    "window that leaves the query out": lambda: window_mask(2) & ~torch.eye(N, dtype=torch.bool),
    "additive": lambda: torch.randn(B, 1, N, N, dtype=torch.float64),
    "additive window with infinities": lambda: additive(window_mask(1), -math.inf),
    "additive window with the lowest number": lambda: additive(without_first_query(window_mask(1)), LOWEST),
    "causal as a mask": lambda: torch.ones(N, N, dtype=torch.bool).tril(),
}
FORMULAS = {
    "mean of heads": (lambda block: block.probs.mean(1), True),
    "residual": (lambda block: mix_residual(fuse_heads(block.probs, "mean"), 0.3, rows=block.rows), True),
    "residual of the largest head": (
        lambda block: mix_residual(fuse_heads(block.probs, "max"), rows=block.rows),
        False,
    ),
    "smallest head": (lambda block: fuse_heads(block.probs, "min"), False),
    "evidence for": (lambda block: gradient_weighted_attention(*block.weighted), True),
    "evidence of both signs": (
        lambda block: torch.stack(
            [gradient_weighted_attention(*block.weighted, sign=sign) for sign in ("positive", "negative")]
        ),
        True,
    ),
    "clamped mean": (lambda block: gradient_weighted_attention(*block.weighted, clamp="mean"), False),
    "normalised rows": (
        lambda block: row_normalized_gain(gradient_weighted_attention(*block.weighted), rows=block.rows),
        False,
    ),
    "relevance": (lambda block: block.relevant.mean(1), True),
    "evidence for, in the block's memory": (lambda block: evidence_by_sign(block, "positive"), True),
    "evidence against, in the block's memory": (lambda block: evidence_by_sign(block, "negative"), True),
    "evidence of both signs, in the block's memory": (lambda block: evidence_by_sign(block, "signed"), True),
    "clamped mean, in the block's memory": (lambda block: evidence_by_sign(block, "signed", clamp="mean"), False),
    "residual, in the block's memory": (
        lambda block: mix_residual(
            block.probs.amax(1), 0.3, rows=block.rows, out=block.probs[:, 0] if block.is_lent else None
        ),
        False,
    ),
}


def layer_of(mask=None, *, is_causal=False, key_heads=H, max_chunk_bytes=blocks.MAX_CHUNK_BYTES, dtype=torch.float64):
    query = torch.randn(B, H, N, D, dtype=dtype)
    key, value = torch.randn(B, key_heads, N, D, dtype=dtype), torch.randn(B, key_heads, N, V, dtype=dtype)
    output = torch.randn(B, H, N, V, dtype=dtype)
    call = AttentionCall(0, "", "self", output, query, key, value, mask, is_causal, batch_size=B)
    record = LayerRecord(call, torch.randn_like(output), torch.randn_like(output))
    return AttentionLayer([record], 0, max_chunk_bytes=max_chunk_bytes)


def weights_of(rows, vectors=2):
    weights = torch.zeros(B, vectors, N, dtype=torch.float64)
    weights[..., rows] = torch.randn(B, vectors, len(rows), dtype=torch.float64)
    return weights


def assert_times_is_product(layer, weights, formula):
    matrix, averages_heads = FORMULAS[formula]

    product = layer.times(weights, matrix, averages_heads=averages_heads)
    in_shared_memory = layer.times(weights, matrix, averages_heads=averages_heads, keeps_nothing=True)

    # Two vectors, so that a block is never taken for all samples; no cut of heads or samples in the matrix.
    expected = weights @ layer.matrix(matrix)
    assert_close(product, expected, **EXACT)
    assert_close(in_shared_memory, expected, **EXACT)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("mask", MASKS)
def test_blocks_of_every_cut_give_the_product_with_the_whole_matrix(mask, formula):
    torch.manual_seed(0)
    one_row = N * 8
    for size in (1, 3 * one_row, H * one_row, 2 * N * one_row, 2 * H * N * one_row, 2**20):
        layer = layer_of(MASKS[mask](), max_chunk_bytes=size)

        assert_times_is_product(layer, weights_of(list(range(N))), formula)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("key_heads", [1, 2, 3])
@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_queries_and_causal_attention_are_cut_alike(is_causal, key_heads, formula):
    torch.manual_seed(0)
    for heads in (1, 2, 3, 4, 5):
        layer = layer_of(is_causal=is_causal, key_heads=key_heads, max_chunk_bytes=heads * N * N * 8)

        assert_times_is_product(layer, weights_of(list(range(N))), formula)


@given(
    mask=st.sampled_from(sorted(MASKS)),
    formula=st.sampled_from(sorted(FORMULAS)),
    key_heads=st.sampled_from([1, 2, 3, 6]),
    rows=st.sets(st.integers(0, N - 1), min_size=1),
    size=st.integers(1, 3 * H * N * N * 8),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_some_rows_of_any_call_in_blocks_of_any_size(mask, formula, key_heads, rows, size):
    layer = layer_of(MASKS[mask](), key_heads=key_heads, max_chunk_bytes=size)

    assert_times_is_product(layer, weights_of(sorted(rows)), formula)


@pytest.mark.parametrize("size", [1, 3 * H * N * 8, 2**25])
@pytest.mark.parametrize("joined", [False, True])
def test_eager_probabilities_with_or_without_an_axis_of_heads_are_read_for_every_sample(joined, size):
    torch.manual_seed(0)
    weights, value = torch.randn(B, H, N, N).double().softmax(-1), torch.randn(B, H, N, V).double()
    tensors = [weights @ value, weights, value, torch.randn(B, H, N, V).double()]
    output, probs, values, gradient = (one.flatten(0, 1) for one in tensors) if joined else tensors
    call = AttentionCall(0, "", "self", output, value=values, weights=probs, batch_size=B)
    layer = AttentionLayer([LayerRecord(call, gradient)], 0, max_chunk_bytes=size)
    readout = weights_of(list(range(N)))

    product = layer.times(readout, FORMULAS["evidence for"][0], averages_heads=True)

    expected = (weights * (tensors[3] @ value.mT)).clamp(min=0).mean(1)
    assert_close(product, readout @ expected, **EXACT)


@pytest.mark.parametrize(("key_heads", "value_heads"), [(1, H), (H, 1)])
def test_keys_and_values_of_unequal_numbers_of_heads_are_not_cut_apart(key_heads, value_heads):
    torch.manual_seed(0)
    query, key = torch.randn(B, H, N, D).double(), torch.randn(B, key_heads, N, D).double()
    value, gradient = torch.randn(B, value_heads, N, V).double(), torch.randn(B, H, N, V).double()
    call = AttentionCall(0, "", "self", torch.zeros_like(gradient), query, key, value, batch_size=B)
    layer = AttentionLayer([LayerRecord(call, gradient)], 0, max_chunk_bytes=N * N * 8)
    readout = weights_of(list(range(N)))

    product = layer.times(readout, FORMULAS["evidence for"][0], averages_heads=True)

    probs = (query @ key.mT * D**-0.5).softmax(-1)
    assert_close(product, readout @ (probs * (gradient @ value.mT)).clamp(min=0).mean(1), **EXACT)


def test_rows_without_a_weight_give_zero():
    layer = layer_of()

    assert not layer.times(torch.zeros(B, 1, N, dtype=torch.float64), FORMULAS["residual"][0]).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    torch.manual_seed(0)
    layer = layer_of(dtype=dtype, key_heads=2, max_chunk_bytes=500)
    weights = weights_of(list(range(N))).float()
    matrix, averages_heads = FORMULAS["evidence for"]

    product = layer.times(weights, matrix, averages_heads=averages_heads)

    assert product.dtype is torch.float32
    assert_close(product, weights @ layer.matrix(matrix), rtol=0.0, atol=1e-5)


# What is formed, and what is not.


def formed(layer, weights, *, averages_heads=True):
    shapes = []

    def formula(block):
        shapes.append(tuple(block.probs.shape))
        return block.probs.mean(1)

    layer.times(weights, formula, averages_heads=averages_heads)
    return shapes


def test_only_rows_with_a_weight_are_formed():
    assert formed(layer_of(), weights_of([4])) == [(B, H, 1, N)]
    assert formed(layer_of(), weights_of([2, 7])) == [(B, H, 2, N)]


def test_a_small_layer_is_one_block():
    assert formed(layer_of(), weights_of(list(range(N)))) == [(B, H, N, N)]


def test_no_block_is_larger_than_max_chunk_bytes():
    for size in (8 * N, 5 * 8 * N, 3 * 8 * N * N, 2 * H * 8 * N * N):
        shapes = formed(layer_of(max_chunk_bytes=size), weights_of(list(range(N))))

        assert max(math.prod(shape) * 8 for shape in shapes) <= size


def test_causal_rows_form_no_later_keys():
    one_head = formed(layer_of(is_causal=True, max_chunk_bytes=4 * N * 8), weights_of(list(range(N))))[:3]

    assert one_head == [(1, 1, 4, 4), (1, 1, 4, 8), (1, 1, 3, 11)]


def test_a_window_forms_the_keys_inside_alone():
    one_head = formed(layer_of(window_mask(2), max_chunk_bytes=4 * N * 8), weights_of(list(range(N))))[:3]

    assert one_head == [(1, 1, 4, 6), (1, 1, 4, 8), (1, 1, 3, 5)]


def test_a_query_whose_keys_are_all_hidden_by_a_number_attends_to_all_of_them():
    hidden = additive(without_first_query(window_mask(1)), LOWEST)
    call = AttentionCall(0, "", "self", *(torch.randn(1, 1, N, D) for _ in range(4)), hidden)

    assert visible_keys(call, slice(1, 4)) == slice(0, N)
    assert visible_keys(call, slice(3, 5)) == slice(2, 6)


# The rule.


@given(
    sizes=st.builds(
        Sizes,
        samples=st.integers(1, 5),
        heads=st.sampled_from([4, 8, 12]),
        queries=st.integers(1, 700),
        keys=st.integers(1, 5000),
        group=st.sampled_from([1, 2, 4]),
    ),
    size=st.integers(1, 2**26),
    cut_samples=st.booleans(),
    cut_heads=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_blocks_cover_every_row_of_every_head_once(sizes, size, cut_samples, cut_heads):
    covered = torch.zeros(sizes.samples, sizes.heads, sizes.queries, dtype=torch.int8)
    smallest = (1 if cut_samples else sizes.samples) * (1 if cut_heads else sizes.heads) * sizes.keys * sizes.entry

    planned = list(extents(sizes, CPU, max_chunk_bytes=size, cut_samples=cut_samples, cut_heads=cut_heads))
    if len(planned) > 20000:
        return
    for one in planned:
        block = covered[one.samples, one.heads, one.rows]
        block += 1
        assert block.numel() * sizes.keys * sizes.entry <= max(size, smallest)
        n_heads = one.heads.stop - one.heads.start
        whole_groups = one.heads.start % sizes.group == 0 and n_heads % sizes.group == 0
        assert whole_groups or one.heads.start // sizes.group == (one.heads.stop - 1) // sizes.group

    assert (covered == 1).all()


def test_a_block_stays_in_the_cache_unless_its_rows_would_be_few():
    short = list(extents(Sizes(8, 12, 197, 197), CPU, max_chunk_bytes=2**25, cut_samples=True, cut_heads=True))
    long = list(extents(Sizes(1, 12, 60000, 60000), CPU, max_chunk_bytes=2**25, cut_samples=True, cut_heads=False))

    assert short[0].samples == slice(0, 2)
    assert long[0].rows == slice(0, 2**25 // (12 * 60000 * 4))


def test_other_devices_get_blocks_as_large_as_they_may_be():
    (block,) = extents(
        Sizes(8, 12, 197, 197), torch.device("meta"), max_chunk_bytes=2**25, cut_samples=True, cut_heads=True
    )

    assert block.samples == slice(0, 8)


def test_shared_memory_is_lent_again_from_block_to_block():
    layer, addresses = layer_of(max_chunk_bytes=3 * N * 8), set()

    def formula(block):
        addresses.add((block.probs.data_ptr(), block.gradients.data_ptr(), block.relevance.data_ptr()))
        return evidence_by_sign(block, "positive")

    layer.times(weights_of(list(range(N))), formula, averages_heads=True, keeps_nothing=True)

    assert len(addresses) == 1


def test_shared_memory_is_none_of_the_model():
    layer = layer_of(boolean_mask(B, 1, N, N))
    call, gradient = layer._call, layer._output_gradient
    tensors = [call.query, call.key, call.value, call.mask, call.output, gradient]
    before = [tensor.clone() for tensor in tensors]

    layer.times(weights_of(list(range(N))), FORMULAS["evidence of both signs"][0], keeps_nothing=True)

    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)


def test_probabilities_of_an_eager_call_are_not_written_over():
    weights = torch.rand(B, H, N, N, dtype=torch.float64)
    output = torch.randn(B, H, N, V, dtype=torch.float64)
    call = AttentionCall(0, "", "self", output, value=torch.randn_like(output), weights=weights.clone(), batch_size=B)
    layer = AttentionLayer([LayerRecord(call, torch.randn_like(output))], 0)

    for formula in ("evidence for, in the block's memory", "residual, in the block's memory"):
        layer.times(weights_of(list(range(N))), FORMULAS[formula][0], averages_heads=True, keeps_nothing=True)

    assert torch.equal(call.weights, weights)


def test_a_users_fusion_of_heads_may_keep_what_it_is_given():
    model, (ids, keywords) = tiny_model("bert"), tiny_input("bert")
    kept = []

    def largest(probs):
        kept.append((probs, probs.clone()))
        return probs.amax(-3)

    AttentionRollout(model, head_fusion=largest, max_chunk_bytes=1).attribute(ids, forward_kwargs=keywords)

    assert len(kept) > 2
    for probs, copy in kept:
        assert torch.equal(probs, copy)
