"""What a session changes on a model while it runs, shared by all sessions on that model and undone by the last.

Two threads may explain the same model at once, and both need its parameters frozen. So every change is
counted per model under one lock: made by the first session, undone by the last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@dataclass
class _Installation:
    sessions: int
    undo: Callable[[], None]


NamedModules = list[tuple[str, nn.Module]]
"""Modules with their dotted names."""

WHOLE_PROCESS = nn.Module()
"""Stands for the process where a change is not made on a model."""

# What libraries call the share that a module drops, itself or by a function.
_DROPOUT_RATES = ("p", "drop_prob", "dropout", "attention_dropout", "dropout_prob", "dropout_p")

_lock = threading.RLock()
_installed: dict[str, WeakKeyDictionary[nn.Module, _Installation]] = {}


@contextmanager
def installed(model: nn.Module, what: str, install: Callable[[nn.Module], Callable[[], None]]) -> Iterator[None]:
    """Keep a change on a model for the duration of the block.

    Args:
        model: The model that is changed.
        what: Name of the change; sessions that name the same change on the same model share it.
        install: Makes the change and returns the function that undoes it; called for the first session only.

    Yields:
        Nothing.
    """
    with _lock:
        models = _installed.setdefault(what, WeakKeyDictionary())
        if (installation := models.get(model)) is None:
            installation = models[model] = _Installation(0, install(model))
        installation.sessions += 1
    try:
        yield
    finally:
        with _lock:
            installation.sessions -= 1
            if installation.sessions == 0:
                models.pop(model)
                installation.undo()


def freeze_parameters(model: nn.Module, modules: NamedModules | None = None) -> Callable[[], None]:
    """Switch ``requires_grad`` off on every parameter that has it on.

    Otherwise the graph would keep the activations that parameter gradients need, which nobody asks for.

    Args:
        model: The model to freeze.
        modules: What :func:`modules_of` gives for it, where that is known.

    Returns:
        The function that switches it on again.
    """
    thawed = []
    for _, module in modules or modules_of(model):
        for parameter in module._parameters.values():
            if parameter is not None and parameter.requires_grad:
                parameter.requires_grad = False
                thawed.append(parameter)

    def undo() -> None:
        for parameter in thawed:
            parameter.requires_grad = True

    return undo


def modules_of(model: nn.Module) -> NamedModules:
    """All modules of a model with their dotted names, each once, in the order of ``named_modules``, which is slower.

    Args:
        model: The model, whose own name is empty.

    Returns:
        Parents before their children.
    """
    found: NamedModules = []
    seen: set[nn.Module] = set()
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        found.append((name, module))
        if module._modules:
            prefix = f"{name}." if name else ""
            # The last one waiting is the next one taken.
            waiting += [(prefix + part, one) for part, one in reversed(module._modules.items()) if one is not None]
    return found


def is_training(model: nn.Module, modules: NamedModules | None = None) -> bool:
    """Whether some part of a model that behaves otherwise in training is in training mode.

    Args:
        model: The model.
        modules: What :func:`modules_of` gives for it, where that is known.

    Returns:
        True if dropout of any form or batch normalisation is at work; a wrapper or an activation that was never told
        to evaluate does not count.
    """
    return any(module.training and _is_changed_by_training(module) for _, module in modules or modules_of(model))


def _is_changed_by_training(module: nn.Module) -> bool:
    rates = (getattr(module, name, None) for name in _DROPOUT_RATES)
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or any(
        isinstance(rate, float) and rate > 0 for rate in rates
    )


def is_compiled(modules: NamedModules) -> bool:
    """Whether some part of a model was compiled by ``torch.compile`` or ``Module.compile``.

    Args:
        modules: What :func:`modules_of` gives for the model.

    Returns:
        True if dynamo would run instead of the modules themselves.
    """
    return any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None for _, module in modules
    )


def force_eager(model: nn.Module) -> Callable[[], None]:
    """Run compiled models as they were before compilation, in the whole process.

    Dynamo cannot trace a capture session. The stance is global and must be taken back in the order in which it was
    taken, so all sessions share one. Nothing is recompiled afterwards.

    Args:
        model: Not looked at; the stance is not a model's.

    Returns:
        The function that takes the stance back.
    """
    stance = torch.compiler.set_stance("force_eager")

    def undo() -> None:
        stance.__exit__(None, None, None)

    return undo


def remove_all(handles: list[RemovableHandle]) -> Callable[[], None]:
    """The function that removes all hooks.

    Args:
        handles: Handles of the hooks.

    Returns:
        A function without arguments.
    """

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo
