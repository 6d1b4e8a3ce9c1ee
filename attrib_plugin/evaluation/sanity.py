"""Sanity checks: does a map depend on the class, on the weights, and only on what the model computes?

``explanation_func`` is what Captum's ``sensitivity_max`` takes: ``method.attribute``, called as
``explanation_func(inputs, **kwargs)``. It must explain the very module object that the check changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError, TargetIgnoredWarning
from attrib_plugin.evaluation.ranking import check_finite, rank_correlation
from attrib_plugin.evaluation.scoring import only_tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def class_sensitivity(
    explanation_func: Callable[..., Any], inputs: Any, targets: Sequence[Any], **kwargs: Any
) -> Float[Tensor, " batch"]:
    """How far the map changes with the class that is asked for.

    Raw attention, rollout and flow ignore the class and get 0, whatever the model.

    Args:
        explanation_func: ``method.attribute``.
        inputs: What it explains.
        targets: Two targets or more, each in any of Captum's forms.
        **kwargs: Further arguments of ``explanation_func``.

    Returns:
        1 minus the rank correlation, averaged over pairs of targets: 0 for the same order, 1 for unrelated ones, 2 for
        the reverse. Two constant maps count as the same.

    Raises:
        InputError: If there are fewer than two targets, or a map is not finite.
    """
    if len(targets) < 2:
        raise InputError(f"Expected at least two targets to compare, found {len(targets)}.")
    with warnings.catch_warnings():
        # That a target is ignored is what is being measured.
        warnings.simplefilter("ignore", TargetIgnoredWarning)
        maps = [_explained(explanation_func, inputs, target=target, **kwargs) for target in targets]
    pairs = [rank_correlation(one, other) for number, one in enumerate(maps) for other in maps[:number]]
    return 1 - torch.stack(pairs).mean(0)


def input_invariance(
    explanation_func: Callable[..., Any], inputs: Any, model: nn.Module, shift: float | Tensor, **kwargs: Any
) -> Float[Tensor, " batch"]:
    """How far the map changes when a constant is added to the input and the model takes it off again.

    The model computes the same, so a map of what it computes must not change. The shift is taken off by a hook before
    the model's forward, which is removed afterwards. Methods that multiply with the input or compare with a fixed
    baseline fail.

    Args:
        explanation_func: ``method.attribute`` of a method of ``model``.
        inputs: Images or embeddings, a floating tensor, the first positional argument of the model.
        model: The module that is explained.
        shift: A number or a tensor broadcastable to ``inputs``.
        **kwargs: Further arguments of ``explanation_func``.

    Returns:
        ``|map' - map| / |map|`` in Euclidean norm: 0 is invariant, up to rounding; infinite where an all-zero map
        changes.

    Raises:
        InputError: If inputs are not floating, or a map is not finite.

    Reference:
        Kindermans et al. 2019, arXiv:1711.00867.
    """
    tensor = only_tensor(inputs, "inputs")
    if not tensor.is_floating_point():
        raise InputError(
            f"Expected floating inputs, found {tensor.dtype}: a token id cannot be shifted. Give embeddings."
        )
    before = _explained(explanation_func, tensor, **kwargs).flatten(1).double()
    offset = torch.as_tensor(shift, dtype=tensor.dtype, device=tensor.device)

    def take_off(
        _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args and _is_like(args[0], tensor):
            return (args[0] - offset, *args[1:]), keywords
        # Embeddings go to models of transformers by keyword.
        name = next(name for name, value in keywords.items() if _is_like(value, tensor))
        return args, {**keywords, name: keywords[name] - offset}

    handle = model.register_forward_pre_hook(take_off, with_kwargs=True)
    try:
        after = _explained(explanation_func, tensor + offset, **kwargs).flatten(1).double()
    finally:
        handle.remove()
    change, size = (after - before).norm(dim=1), before.norm(dim=1)
    return torch.where(change == 0, torch.zeros_like(change), change / size)


@contextmanager
def randomised_parameters(model: nn.Module, modules: Sequence[str], *, seed: int = 0) -> Iterator[None]:
    """Shuffle the entries of the parameters of some modules for the length of a ``with`` block.

    Shuffling keeps the distribution of each parameter, so activations stay in range while everything learned is lost.
    Afterwards, also after an exception, every parameter holds the same bits as before, in the same memory. Buffers,
    gradients and the random state of torch are not touched.

    Args:
        model: The model.
        modules: Names of submodules (``model.named_modules()``); all parameters below them are shuffled.
        seed: Of the shuffles.

    Yields:
        Nothing.

    Raises:
        InputError: If there is no such module, or the modules have no parameters.
    """
    with _shuffled(_parameters_of(model, modules, recurse=True), seed):
        yield


def parameter_randomisation(
    explanation_func: Callable[..., Any],
    inputs: Any,
    model: nn.Module,
    *,
    modules: Sequence[str] | None = None,
    cascade: bool = True,
    seed: int = 0,
    **kwargs: Any,
) -> dict[str, Float[Tensor, " batch"]]:
    """How much of the map is left when the weights are randomised, module by module from the top.

    A map that explains the model must change; one that stays shows the input, or the architecture. The model is
    restored bit for bit, also after an exception (:func:`randomised_parameters`).

    Args:
        explanation_func: ``method.attribute`` of a method of ``model``.
        inputs: What it explains.
        model: The module that is explained.
        modules: Names of submodules in the order of randomisation; ``None``: every module that has parameters of its
            own, the last registered (the head) first.
        cascade: Randomise each module on top of those before it; otherwise each alone.
        seed: Of the shuffles.
        **kwargs: Further arguments of ``explanation_func``; give a target, or another class is explained after each
            step.

    Returns:
        By module, the rank correlation of the map with the original one, after randomising that module (and those
        before it): 1 is the same order, 0 unrelated.

    Raises:
        InputError: If there is no such module, or a map is not finite.

    Reference:
        Adebayo et al. 2018, arXiv:1810.03292.
    """
    recurse = modules is not None
    if modules is None:
        own = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
        modules = own[::-1]
    original = _explained(explanation_func, inputs, **kwargs)
    left = {}
    for number, name in enumerate(modules):
        changed = modules[: number + 1] if cascade else [name]
        with _shuffled(_parameters_of(model, changed, recurse=recurse), seed):
            left[name] = rank_correlation(original, _explained(explanation_func, inputs, **kwargs))
    return left


def _explained(explanation_func: Callable[..., Any], inputs: Any, **kwargs: Any) -> Tensor:
    maps = only_tensor(explanation_func(inputs, **kwargs), "the explanation").detach()
    check_finite(maps)
    return maps


def _is_like(value: Any, inputs: Tensor) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape[1:] == inputs.shape[1:]


@contextmanager
def _shuffled(parameters: Sequence[nn.Parameter], seed: int) -> Iterator[None]:
    generator = torch.Generator().manual_seed(seed)
    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, saved, strict=True):
                parameter.copy_(values)


def _parameters_of(model: nn.Module, names: Sequence[str], *, recurse: bool) -> list[nn.Parameter]:
    known = dict(model.named_modules())
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"The model has no module {missing[0]!r}. Give names out of model.named_modules().")
    # In the order of the names, each once: modules may share weights, and one may hold another.
    chosen: dict[int, nn.Parameter] = {}
    for name in names:
        for parameter in known[name].parameters(recurse=recurse):
            chosen.setdefault(id(parameter), parameter)
    if not chosen:
        raise InputError(f"The modules {list(names)} have no parameters to randomise.")
    return list(chosen.values())
