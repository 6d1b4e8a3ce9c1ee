"""What every method promises on every family. A new method or a new family is tested here without an edit."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from contract_methods import (
    CLOSE_PAIRS,
    MATRIX_METHODS,
    METHODS,
    PAIRS,
    REFUSED_PAIRS,
    WITHOUT_START,
    delicate_warning,
    looseness,
    made,
)
from tiny_models import FAMILIES, N_CLASSES, TEXT_LENGTHS, tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin import AttentionRollout, capture_attention
from attrib_plugin.errors import AttributionError, TargetError, TargetIgnoredWarning, UnsupportedAttentionError
from attrib_plugin.functional import fuse_heads, gradient_weighted_attention, mix_residual

TARGETS = [1, 4, 2]

# The warning is about the model's own forward pass on torch's fast path.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")

every_pair = pytest.mark.parametrize(("method_name", "family_name"), PAIRS)
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


@dataclass(frozen=True)
class Case:
    """One method on one tiny model, with inputs and targets."""

    method: Any
    model: nn.Module
    inputs: Tensor
    keywords: dict[str, Tensor]
    targets: list[int] | None

    @property
    def call(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "forward_kwargs": self.keywords, "target": self.targets}

    def warning(self) -> AbstractContextManager[Any]:
        """The warning that belongs to giving a target to this method."""
        if self.method.needs_gradients:
            return nullcontext()
        return pytest.warns(TargetIgnoredWarning, match="does not depend on the class")


def make_case(
    method_name: str,
    family_name: str,
    implementation: str = "sdpa",
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float64,
) -> Case:
    model = tiny_model(family_name, implementation, dtype) if model is None else model
    method = made(method_name, model, **FAMILIES[family_name].options)
    inputs, keywords = tiny_input(family_name, dtype=dtype)
    return Case(method, model, inputs, keywords, TARGETS if method.needs_gradients else None)


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


def layers_of(calls: Any) -> list[Any]:
    """The captured calls that are layers; a pooling of the tokens at the top is none."""
    return [call for call in calls if call.kind != "pool"]


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
        relative = 2e-3

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


# Nothing left behind.


@dataclass(frozen=True)
class Snapshot:
    """Everything about a model that a method could forget to put back."""

    hooks: Counter[str]
    requires_grad: list[bool]
    has_grad: list[bool]
    training: list[bool]
    settings: list[set[str]]
    weights: dict[str, Tensor]
    ambient: tuple[Any, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        hooks = Counter(
            {
                kind: sum(len(getattr(module, kind)) for module in model.modules())
                for kind in vars(nn.Module())
                if kind.endswith("_hooks")
            }
        )
        return cls(
            hooks=hooks,
            requires_grad=[parameter.requires_grad for parameter in model.parameters()],
            has_grad=[parameter.grad is not None for parameter in model.parameters()],
            training=[module.training for module in model.modules()],
            settings=[set(vars(module)) for module in model.modules()],
            weights={name: weight.clone() for name, weight in model.state_dict().items()},
            ambient=(
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch._C._len_torch_function_stack(),
                torch.nn.functional.scaled_dot_product_attention,
                torch.nn.functional.multi_head_attention_forward,
            ),
        )


def assert_untouched(model: nn.Module, before: Snapshot) -> None:
    after = Snapshot.of(model)
    for part in ("hooks", "requires_grad", "has_grad", "training", "settings", "ambient"):
        assert getattr(after, part) == getattr(before, part), part
    assert not any(after.has_grad)
    torch.testing.assert_close(after.weights, before.weights, rtol=0, atol=0)


def last_leaf(model: nn.Module, case: Case) -> nn.Module:
    """A module without children that runs late in the forward pass, after attention."""
    ran = []
    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [leaf.register_forward_hook(lambda module, *_: ran.append(module)) for leaf in leaves]
    with torch.no_grad():
        model(case.inputs, **case.keywords)
    for handle in handles:
        handle.remove()
    return ran[-1]


@every_pair
def test_success_leaves_nothing_behind(method_name, family_name):
    case = make_case(method_name, family_name)
    next(case.model.parameters()).requires_grad_(False)
    before = Snapshot.of(case.model)

    try:
        case.method.attribute(**case.call)
        if case.method.has_matrix:
            case.method.layer_rows(**case.call)
            case.method.matrix(**case.call)

        assert_untouched(case.model, before)
    finally:
        next(case.model.parameters()).requires_grad_(True)


@every_pair
def test_a_bad_target_leaves_nothing_behind(method_name, family_name):
    case = make_case(method_name, family_name)
    before = Snapshot.of(case.model)

    if case.method.needs_gradients:
        with pytest.raises(TargetError, match="out of range: the model has 5 classes"):
            case.method.attribute(case.inputs, N_CLASSES, forward_kwargs=case.keywords)
    else:
        with case.warning():
            case.method.attribute(case.inputs, N_CLASSES, forward_kwargs=case.keywords)

    assert_untouched(case.model, before)


@every_pair
def test_a_bad_read_out_leaves_nothing_behind(method_name, family_name):
    case = make_case(method_name, family_name)
    before = Snapshot.of(case.model)

    with pytest.raises(AttributionError, match="readout"):
        case.method.attribute(**case.call, readout="everything")

    assert_untouched(case.model, before)


# What is undone does not depend on the kind of the exception, so Ctrl-C goes with one family of text and one of images.
@pytest.mark.parametrize(
    ("method_name", "family_name", "error"),
    [
        *((*pair, RuntimeError) for pair in PAIRS),
        *((*pair, KeyboardInterrupt) for pair in PAIRS if pair[1] in ("bert", "timm_vit")),
    ],
)
def test_an_exception_in_the_forward_pass_leaves_nothing_behind(method_name, family_name, error):
    case = make_case(method_name, family_name)

    def fail(module: nn.Module, arguments: Any, output: Any) -> None:
        raise error("stop here")

    handle = last_leaf(case.model, case).register_forward_hook(fail)
    before = Snapshot.of(case.model)
    try:
        with pytest.raises(error, match="stop here"):
            case.method.attribute(**case.call)

        assert_untouched(case.model, before)
    finally:
        handle.remove()
    assert case.method.attribute(**case.call).isfinite().all()
