"""Activation checkpointing, which runs parts of a model twice: an error that says how to go on without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import CodeType, TracebackType

from torch.utils import checkpoint

from attrib_plugin.errors import AttributionError, UnsupportedAttentionError

# Reentrant checkpointing runs a part of the model in the forward of this function, where no graph is recorded.
_REENTRANT: CodeType = checkpoint.CheckpointFunction.forward.__code__


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
            "Gradients and relevance cannot pass the activation checkpointing of this model (torch.utils.checkpoint), "
            "which runs its parts again in the backward pass, unseen. Switch it off while you explain: "
            "model.gradient_checkpointing_disable() in transformers, model.set_grad_checkpointing(False) in timm, or "
            "model.eval() where the model checkpoints in training only. AttentionRollout needs no gradients."
        ) from error


def _is_due_to_checkpoints(error: Exception) -> bool:
    codes = _codes(error.__traceback__)
    # An error of the model in a checkpointed part is the model's own; one raised by checkpointing comes from its file.
    raised_there = not isinstance(error, AttributionError) and codes[-1].co_filename == _REENTRANT.co_filename
    # Reentrant checkpointing runs without a graph, so no relevance passes it whatever the operation is.
    return raised_there or (isinstance(error, AttributionError) and _REENTRANT in codes)


def _codes(traceback: TracebackType | None) -> list[CodeType]:
    return [frame.f_code for frame, _ in walk_tb(traceback)]
