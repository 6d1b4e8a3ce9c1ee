"""Rows, matrices, heads and layers of every method are views of one computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_methods import (
    MATRIX_METHODS,
    PAIRS,
    REFUSED_PAIRS,
    WITHOUT_START,
)
from method_cases import TARGETS, make_case
from tiny_models import FAMILIES
from torch import Tensor

from attrib_plugin import AttentionRollout, capture_attention
from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.functional import fuse_heads, gradient_weighted_attention, mix_residual

# The warning is about the model's own forward pass on torch's fast path.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")

every_pair_with_a_matrix = pytest.mark.parametrize(
    ("method_name", "family_name"), [pair for pair in PAIRS if pair[0] in MATRIX_METHODS]
)

# Attention within windows is set against dense matrices in tests/methods/test_windowed_models.py.
every_global_pair = pytest.mark.parametrize(
    ("method_name", "family_name"), [pair for pair in PAIRS if not FAMILIES[pair[1]].windowed]
)

every_global_family = pytest.mark.parametrize(
    "family_name", [name for name, facts in FAMILIES.items() if not facts.windowed]
)


def assert_same(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Equal up to a tolerance relative to the largest expected entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * max(expected.abs().max().item(), 1e-300))


def scores_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def layers_of(calls: Any) -> list[Any]:
    """The captured calls that are layers; a pooling of the tokens at the top is none."""
    return [call for call in calls if call.kind != "pool"]


# Views of the same computation.


@every_pair_with_a_matrix
def test_the_row_recursion_equals_the_row_of_the_matrix(method_name, family_name):
    case = make_case(method_name, family_name)
    options = FAMILIES[family_name].options
    # A rollout that is nothing but residual leaves the read-out as it is, or carries it to what tokens are merged from.
    start = AttentionRollout(case.model, residual=1.0, **options).layer_rows(case.inputs, forward_kwargs=case.keywords)[
        -1
    ]

    row = case.method.layer_rows(**case.call)[-1]
    matrix = case.method.matrix(**case.call)

    n_read = matrix.shape[-2]
    readout = start.new_full((len(start), n_read), 1 / n_read) if FAMILIES[family_name].windowed else start
    expected = (readout[:, None] @ matrix).squeeze(1)
    if method_name in WITHOUT_START:
        expected = expected - start
    assert_same(row, expected, 1e-10)


@every_pair_with_a_matrix
def test_the_row_recursion_holds_for_any_read_out_weights(method_name, family_name):
    case = make_case(method_name, family_name)
    matrix = case.method.matrix(**case.call)
    weights = torch.rand(matrix.shape[-2], dtype=matrix.dtype)
    start = AttentionRollout(case.model, residual=1.0, readout=weights).layer_rows(
        case.inputs, forward_kwargs=case.keywords
    )[-1]

    row = case.method.layer_rows(**case.call, readout=weights)[-1]

    expected = weights @ matrix
    if method_name in WITHOUT_START:
        expected = expected - start
    assert_same(row, expected, 1e-10)


@every_pair_with_a_matrix
def test_the_last_layer_row_is_what_attribute_maps(method_name, family_name):
    case = make_case(method_name, family_name)
    family = FAMILIES[family_name]

    rows = case.method.layer_rows(**case.call)
    relevance = case.method.attribute(**case.call, return_input_shape=False)

    assert len(rows) == len(case.method.head_attention(case.inputs, forward_kwargs=case.keywords))
    assert_same(relevance.flatten(1), rows[-1][:, family.prefix_tokens :], 1e-12)


@every_global_pair
def test_head_attention_has_every_layer_and_rows_that_sum_to_one(method_name, family_name):
    case = make_case(method_name, family_name)
    with capture_attention(case.model) as captured:
        case.model(case.inputs, **case.keywords)

    heads = case.method.head_attention(case.inputs, forward_kwargs=case.keywords)

    calls = layers_of(captured.calls)
    assert len(heads) == len(calls) > 1
    for layer, call in zip(heads, calls, strict=True):
        assert layer.shape[0] == len(case.inputs)
        assert layer.dim() == 4
        torch.testing.assert_close(layer.sum(-1), torch.ones_like(layer[..., 0]), rtol=0, atol=1e-12)
        torch.testing.assert_close(layer, call.probabilities(), rtol=0, atol=1e-12)


FORMULAS = {
    "RawAttention": lambda probs, gradients: fuse_heads(probs),
    "AttentionRollout": lambda probs, gradients: mix_residual(fuse_heads(probs)),
    "GradientRollout": gradient_weighted_attention,
}


@pytest.mark.parametrize("method_name", FORMULAS)
@every_global_family
def test_layer_attention_is_the_formula_of_the_method(method_name, family_name):
    case = make_case(method_name, family_name)
    with capture_attention(case.model) as captured:
        output = scores_of(case.model(case.inputs, **case.keywords))
        score = output[torch.arange(len(output)), TARGETS].sum()
        expected = [
            FORMULAS[method_name](call.probabilities(), call.gradient(of=score)) for call in layers_of(captured.calls)
        ]

    layers = case.method.layer_attention(**case.call)

    assert len(layers) == len(expected)
    for layer, one in zip(layers, expected, strict=True):
        assert_same(layer, one, 1e-10)


@pytest.mark.parametrize(("method_name", "family_name"), REFUSED_PAIRS)
def test_a_method_that_does_not_follow_windows_says_which_do(method_name, family_name):
    case = make_case(method_name, family_name)

    with pytest.raises(
        UnsupportedAttentionError, match="Use GradientRollout, AttentionRollout, RawAttention or TokenGradCam"
    ):
        case.method.attribute(**case.call)
