"""A model is after every call as it was before, whatever happened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from contract_methods import (
    PAIRS,
)
from method_cases import Case, make_case
from tiny_models import N_CLASSES
from torch import Tensor, nn

from attrib_plugin.errors import AttributionError, TargetError

# The warning is about the model's own forward pass on torch's fast path.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")

every_pair = pytest.mark.parametrize(("method_name", "family_name"), PAIRS)


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
