"""What every method promises on every family. A new method or a new family is tested here without an edit."""

from __future__ import annotations

import copy
import inspect
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from contract_methods import (
    CLOSE_PAIRS,
    METHODS,
    PAIRS,
    delicate_warning,
    looseness,
    made,
)
from method_cases import TARGETS, make_case
from tiny_models import FAMILIES, TEXT_LENGTHS, tiny_model
from torch import Tensor

# The warning is about the model's own forward pass on torch's fast path.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")

every_pair = pytest.mark.parametrize(("method_name", "family_name"), PAIRS)


@cache
def plain_map(method_name: str, family_name: str) -> Tensor:
    """The map of the plain call, which many tests compare with; made once in each test process."""
    case = make_case(method_name, family_name)
    relevance: Tensor = case.method.attribute(**case.call)
    return relevance


def assert_same(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Equal up to a tolerance relative to the largest expected entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * max(expected.abs().max().item(), 1e-300))


def scores_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def is_text(family_name: str) -> bool:
    return FAMILIES[family_name].modality == "text"


def expected_shape(family_name: str, inputs: Tensor, return_input_shape: bool) -> tuple[int, ...]:
    if return_input_shape or is_text(family_name):
        return tuple(inputs.shape)
    return (len(inputs), 1, *FAMILIES[family_name].grid)


# Output.


@every_pair
@pytest.mark.parametrize(("return_input_shape", "dtype"), [(True, torch.float64), (False, torch.float32)])
def test_output_has_the_promised_shape_dtype_layout_and_device(method_name, family_name, return_input_shape, dtype):
    case = make_case(method_name, family_name, dtype=dtype)

    relevance = case.method.attribute(**case.call, return_input_shape=return_input_shape)

    assert relevance.shape == expected_shape(family_name, case.inputs, return_input_shape)
    assert relevance.dtype == dtype
    assert relevance.device == case.inputs.device
    assert relevance.is_contiguous()
    assert relevance.isfinite().all()
    assert relevance.any()
    assert not relevance.requires_grad


# All other pairs are shown in test_dtypes.py to be close to float32, too.
@pytest.mark.parametrize(("method_name", "family_name"), [pair for pair in PAIRS if pair not in CLOSE_PAIRS])
def test_half_precision_models_are_explained_in_float32(method_name, family_name):
    case = make_case(method_name, family_name, dtype=torch.bfloat16)

    with delicate_warning(method_name):
        relevance = case.method.attribute(**case.call)

    assert relevance.dtype == torch.float32
    assert relevance.isfinite().all()
    assert relevance.any()


@every_pair
def test_every_channel_and_every_pixel_of_a_patch_is_a_copy_or_a_part_of_the_patch_map(method_name, family_name):
    case = make_case(method_name, family_name)

    whole = case.method.attribute(**case.call)
    small = case.method.attribute(**case.call, return_input_shape=False)

    if case.method.is_native:
        assert_same(whole.flatten(1).sum(1), small.flatten(1).sum(1), 1e-10)
        return
    copies = small
    for axis in range(small.dim()):
        copies = copies.repeat_interleave(whole.shape[axis] // small.shape[axis], dim=axis)
    torch.testing.assert_close(whole, copies, rtol=0, atol=0)


@every_pair
def test_a_tuple_goes_in_and_a_tuple_comes_out(method_name, family_name):
    case = make_case(method_name, family_name)
    in_tuple = {**case.call, "inputs": (case.inputs,)}
    several = {name: value for name, value in in_tuple.items() if name != "target"}

    relevance = case.method.attribute(**in_tuple)
    with case.warning():
        stacked = case.method.attribute_targets(**several, targets=[0, 1])

    assert isinstance(relevance, tuple)
    assert len(relevance) == 1
    assert isinstance(stacked, tuple)
    assert len(stacked) == 1
    torch.testing.assert_close(relevance[0], plain_map(method_name, family_name), rtol=0, atol=0)


@every_pair
def test_a_non_contiguous_input_gives_the_same_map(method_name, family_name):
    case = make_case(method_name, family_name)
    strided = case.inputs.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not strided.is_contiguous()

    relevance = case.method.attribute(**{**case.call, "inputs": strided})

    assert relevance.is_contiguous()
    assert_same(relevance, plain_map(method_name, family_name), 1e-12)


# Capture.


@every_pair
def test_logits_with_capture_equal_logits_without(method_name, family_name):
    case = make_case(method_name, family_name)
    seen = []

    def recording(*arguments, **keywords):
        seen.append(scores_of(case.model(*arguments, **keywords)))
        return seen[-1]

    made(method_name, recording, model=case.model, **FAMILIES[family_name].options).attribute(**case.call)

    with torch.no_grad():
        expected = scores_of(case.model(case.inputs, **case.keywords))
    assert len(seen) == 1
    assert_same(seen[0].detach(), expected, 1e-12)


@pytest.mark.parametrize(
    ("method_name", "family_name"),
    [(method, family) for method, family in PAIRS if {"sdpa", "eager"} <= set(FAMILIES[family].implementations)],
)
def test_fused_attention_gives_the_map_of_eager_attention(method_name, family_name):
    fused = make_case(method_name, family_name, "sdpa")
    eager = make_case(method_name, family_name, "eager")
    relative = 1e-6 if FAMILIES[family_name].softmax_in_float32 else 1e-10
    if looseness(method_name) > 1:
        # Rescaled sums blow up what eager softmax loses in float32: I-JEPA with the weights that it gets in
        # transformers 4 differs by 3.7e-3, and by 4e-12 where its softmax is kept in float64.
        relative = 5e-3 if family_name == "hf_ijepa" else 2e-3

    relevance = fused.method.attribute(**fused.call)

    assert_same(relevance, eager.method.attribute(**eager.call), relative)


# Batches.


@every_pair
def test_a_padded_batch_equals_its_rows_alone_and_is_zero_on_padding(method_name, family_name):
    case = make_case(method_name, family_name)

    batch = case.method.attribute(**case.call)

    for sample, row in enumerate(batch):
        length = TEXT_LENGTHS[sample] if is_text(family_name) else case.inputs.shape[-1]
        alone = case.method.attribute(
            case.inputs[sample : sample + 1, ..., :length],
            forward_kwargs={name: mask[sample : sample + 1, :length] for name, mask in case.keywords.items()},
            target=None if case.targets is None else case.targets[sample],
        )
        assert_same(row[..., :length], alone[0], 1e-10 * looseness(method_name))
        assert not row[..., length:].any()


@every_pair
def test_the_internal_batch_size_does_not_change_the_map(method_name, family_name):
    case = make_case(method_name, family_name)

    relevance = case.method.attribute(**case.call, internal_batch_size=2)  # three samples: two and one

    assert_same(relevance, plain_map(method_name, family_name), 1e-12 * looseness(method_name))


@every_pair
def test_several_targets_are_the_stack_of_single_targets(method_name, family_name):
    case = make_case(method_name, family_name)
    targets = [0, TARGETS, None]

    with case.warning():
        several = case.method.attribute_targets(case.inputs, targets, forward_kwargs=case.keywords)

    assert several.shape == (3, *case.inputs.shape)
    for relevance, target in zip(several, targets, strict=True):
        with nullcontext() if target is None else case.warning():
            alone = case.method.attribute(case.inputs, target, forward_kwargs=case.keywords)
        assert_same(relevance, alone, 1e-12 * looseness(method_name))


@every_pair
def test_no_target_means_the_predicted_class_of_each_sample(method_name, family_name):
    case = make_case(method_name, family_name)
    with torch.no_grad():
        predicted = scores_of(case.model(case.inputs, **case.keywords)).argmax(-1)

    relevance = case.method.attribute(case.inputs, forward_kwargs=case.keywords)

    with case.warning():
        assert_same(case.method.attribute(case.inputs, predicted, forward_kwargs=case.keywords), relevance, 1e-12)


@every_pair
def test_masks_may_be_given_in_captums_positional_form(method_name, family_name):
    case = make_case(method_name, family_name)

    relevance = case.method.attribute(case.inputs, case.targets, tuple(case.keywords.values()) or None)

    assert_same(relevance, plain_map(method_name, family_name), 1e-12)


# Surroundings.


@every_pair
def test_frozen_models_are_explained_like_others(method_name, family_name):
    case = make_case(method_name, family_name)
    frozen = copy.deepcopy(case.model).requires_grad_(False)

    relevance = make_case(method_name, family_name, model=frozen).method.attribute(**case.call)

    assert_same(relevance, plain_map(method_name, family_name), 1e-12)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@every_pair
def test_the_ambient_no_grad_mode_does_not_matter(method_name, family_name):
    case = make_case(method_name, family_name)

    with torch.no_grad():
        relevance = case.method.attribute(**case.call)
        assert not torch.is_grad_enabled()

    assert_same(relevance, plain_map(method_name, family_name), 1e-12)


@every_pair
def test_the_ambient_inference_mode_does_not_matter(method_name, family_name):
    case = make_case(method_name, family_name)

    with torch.inference_mode():
        # Tensors that are made here refuse to be saved for a backward pass.
        made_here = {name: mask.clone() for name, mask in case.keywords.items()}
        relevance = case.method.attribute(case.inputs.clone(), case.targets, forward_kwargs=made_here)
        assert torch.is_inference_mode_enabled()

    assert_same(relevance.clone(), plain_map(method_name, family_name), 1e-12)


@every_pair
def test_inputs_that_require_gradients_keep_their_own(method_name, family_name):
    case = make_case(method_name, family_name)
    if is_text(family_name):
        inputs = case.inputs
    else:
        inputs = case.inputs.clone().requires_grad_()

    relevance = case.method.attribute(**{**case.call, "inputs": inputs})

    assert inputs.grad is None
    assert inputs.requires_grad == (not is_text(family_name))
    assert not relevance.requires_grad


# Embeddings.

takes_embeddings = pytest.mark.parametrize(
    "family_name",
    [
        name
        for name, facts in FAMILIES.items()
        if facts.modality == "text" and "inputs_embeds" in inspect.signature(tiny_model(name).forward).parameters
    ],
)


@pytest.mark.parametrize("method_name", METHODS)
@takes_embeddings
def test_embeddings_get_the_map_of_their_ids_in_every_dimension(method_name, family_name):
    case = make_case(method_name, family_name)
    with torch.no_grad():
        embeddings = case.model.get_input_embeddings()(case.inputs)

    whole = case.method.attribute(**{**case.call, "inputs": embeddings})
    small = case.method.attribute(**{**case.call, "inputs": embeddings}, return_input_shape=False)

    of_ids = plain_map(method_name, family_name)
    assert whole.is_contiguous()
    assert_same(small, of_ids, 1e-10 * looseness(method_name))
    if case.method.is_native:
        assert_same(whole.sum(-1), of_ids, 1e-10 * looseness(method_name))
    else:
        assert_same(whole, of_ids[..., None].expand_as(embeddings), 1e-10 * looseness(method_name))
