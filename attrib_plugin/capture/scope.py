"""Which module is running: forward hooks that name attention calls, and the sessions of each thread.

Hooks are shared by every thread that runs the model, so they act only for the innermost session of the
thread that they run in.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from attrib_plugin.capture.state import NamedModules, modules_of, remove_all
from attrib_plugin.errors import UnsupportedAttentionError

_ATTENDS = re.compile(r"aten::_?(softmax|scaled_dot_product|\w*multi_head_attention)")


class Scoped(Protocol):
    """A session as the hooks see it."""

    model: nn.Module
    module_stack: list[str]

    def enter(self, module: nn.Module, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Take note that a module starts; return arguments to run it with instead, or ``None``."""

    def leave(self, module: nn.Module, name: str, output: Any) -> Any:
        """Take note that a module has ended; return output to go on with instead, or ``None``."""

    def begin_forward(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Take note of the arguments of a forward pass of the whole model."""

    def end_forward(self, output: object) -> None:
        """Take note of what a forward pass of the whole model returned."""


class _ThreadSessions(threading.local):
    def __init__(self) -> None:
        self.stack: list[Scoped] = []


_sessions = _ThreadSessions()


def innermost() -> Scoped | None:
    """The innermost session of this thread, if any."""
    return _sessions.stack[-1] if _sessions.stack else None


@contextmanager
def entered(session: Scoped) -> Iterator[None]:
    """Make a session the innermost one of this thread for the duration of the block.

    Args:
        session: The session.

    Yields:
        Nothing.
    """
    _sessions.stack.append(session)
    try:
        yield
    finally:
        _sessions.stack.remove(session)


def install_hooks(model: nn.Module, modules: NamedModules | None = None) -> Callable[[], None]:
    """Register forward hooks on every module that could make an attention call.

    Args:
        model: The model whose modules are named.
        modules: What ``modules_of`` gives for it, where that is known.

    Returns:
        The function that removes the hooks.

    Raises:
        UnsupportedAttentionError: If part of the model is TorchScript that attends.
    """
    modules = modules or modules_of(model)
    _refuse_unseen_attention(model, modules)
    handles: list[RemovableHandle] = []
    remove = remove_all(handles)
    try:
        handles.append(model.register_forward_pre_hook(_begin_hook(), with_kwargs=True))
        for full_name, module in modules:
            if may_attend(module):
                name = full_name.replace("_orig_mod.", "").removesuffix("_orig_mod")
                handles.append(module.register_forward_pre_hook(_enter_hook(model, name)))
                handles.append(module.register_forward_hook(_leave_hook(model, name), always_call=True))
        handles.append(model.register_forward_hook(_end_hook()))
    except BaseException:  # also Ctrl-C: half the hooks are worse than none
        remove()
        raise
    return remove


def may_attend(module: nn.Module) -> bool:
    """Whether a module could make an attention call.

    Args:
        module: Any module of a model.

    Returns:
        False for leaves that torch itself defines, and for TorchScript, which takes no hooks.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return False
    # Leaves that torch itself defines (linear layers, norms) make no attention call; hooks on them cost time.
    return bool(module._modules) or not type(module).__module__.startswith("torch.nn.modules")


def _refuse_unseen_attention(model: nn.Module, modules: NamedModules) -> None:
    """Attention within TorchScript calls no Python, so the map would leave out its layers in silence."""
    for name, module in modules:
        if isinstance(module, torch.jit.ScriptModule) and (
            module is model or _ATTENDS.search(str(module.inlined_graph))
        ):
            raise UnsupportedAttentionError(
                f"{repr(name) if name else 'The model'} is TorchScript ({type(module).__name__}), whose attention "
                "cannot be seen. Give the Python model from which it was scripted or traced."
            )


def _session_on(model: nn.Module) -> Scoped | None:
    session = innermost()
    return session if session is not None and session.model is model else None


def _begin_hook() -> Callable[..., None]:
    def begin(module: nn.Module, arguments: tuple[Any, ...], *keywords: dict[str, Any]) -> None:
        # A thread that runs the model while another takes hooks off may call them without the keywords: torch asks
        # late whether a hook takes them. Such a call belongs to no session.
        if session := _session_on(module):
            session.begin_forward(arguments, *keywords)

    return begin


def _end_hook() -> Callable[..., None]:
    def end(module: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        if session := _session_on(module):
            session.end_forward(output)

    return end


def _enter_hook(model: nn.Module, name: str) -> Callable[..., tuple[Any, ...] | None]:
    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        session = _session_on(model)
        return session.enter(module, name, arguments) if session else None

    return enter


def _leave_hook(model: nn.Module, name: str) -> Callable[..., Any]:
    def leave(module: nn.Module, arguments: tuple[Any, ...], output: object) -> Any:
        session = _session_on(model)
        return session.leave(module, name, output) if session else None

    return leave
