"""Activation checkpointing, which runs parts of a model twice.

Libraries have a switch, which is off during a session. A model that calls ``torch.utils.checkpoint`` by itself has its
graph begin at the embeddings, since one that begins inside a part that is run again cannot be followed; what is left is
an error that says how to go on without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from traceback import walk_stack, walk_tb
from types import CodeType, TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from attrib_plugin.capture.state import NamedModules, modules_of
from attrib_plugin.errors import AttributionError, UnsupportedAttentionError

# Switches of transformers, of timm and open_clip, and of much code after the authors' Swin.
_SWITCHES = ("gradient_checkpointing", "grad_checkpointing", "use_checkpoint")

# Reentrant checkpointing runs a part of the model in the forward of this function, where no graph is recorded.
_REENTRANT: CodeType = checkpoint.CheckpointFunction.forward.__code__


def switch_off_checkpoints(model: nn.Module, modules: NamedModules | None = None) -> Callable[[], None]:
    """Switch checkpointing off on every module that has a switch for it.

    Args:
        model: The model.
        modules: What ``modules_of`` gives for it, where that is known.

    Returns:
        The function that switches it on again.
    """
    # Modules look in three places for an attribute that they do not have, which takes as long as all the rest.
    own = ((module, vars(module)) for _, module in modules or modules_of(model))
    found = [(module, name) for module, attributes in own for name in _SWITCHES if attributes.get(name) is True]
    for module, name in found:
        setattr(module, name, False)

    def undo() -> None:
        for module, name in found:
            setattr(module, name, True)

    return undo


def is_inside_checkpoint() -> bool:
    """Whether a part that ``torch.utils.checkpoint`` will run again is running in this thread."""
    return any(frame.f_code.co_filename == _REENTRANT.co_filename for frame, _ in walk_stack(sys._getframe()))


class GraphAtEmbeddings(TorchFunctionMode):
    """Begins the graph at every look-up of embeddings, for the duration of the block."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one torch operation."""
        out = func(*args, **(kwargs or {}))
        return with_graph(out) if func is F.embedding else out


def with_graph(tensor: Tensor) -> Tensor:
    """The tensor with a graph that begins here.

    Args:
        tensor: A floating tensor.

    Returns:
        A copy, because the model may change in place what it gets, and a leaf must not be; the tensor itself where it
        has a graph, or none is recorded.
    """
    if tensor.requires_grad or not torch.is_grad_enabled():
        return tensor
    return tensor.detach().requires_grad_().clone()


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Say what to do when activation checkpointing keeps gradients or relevance from passing.

    Yields:
        Nothing.

    Raises:
        UnsupportedAttentionError: In place of the error that checkpointing itself raised or brought about.
    """
    try:
        yield
    except (RuntimeError, AttributionError) as error:
        if not _is_due_to_checkpoints(error):
            raise
        raise UnsupportedAttentionError(
            "Gradients and relevance cannot pass this model's own calls of torch.utils.checkpoint, which run its parts "
            "again in the backward pass, unseen. Call checkpoint(..., use_reentrant=False) there, or not at all "
            "while you explain; the switches of transformers and timm are off by themselves. AttentionRollout needs no "
            "gradients."
        ) from error


def _is_due_to_checkpoints(error: Exception) -> bool:
    codes = _codes(error.__traceback__)
    # An error of the model in a checkpointed part is the model's own; one raised by checkpointing comes from its file.
    raised_there = not isinstance(error, AttributionError) and codes[-1].co_filename == _REENTRANT.co_filename
    # Reentrant checkpointing runs without a graph, so no relevance passes it whatever the operation is.
    return raised_there or (isinstance(error, AttributionError) and _REENTRANT in codes)


def _codes(traceback: TracebackType | None) -> list[CodeType]:
    return [frame.f_code for frame, _ in walk_tb(traceback)]
