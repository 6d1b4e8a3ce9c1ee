"""One forward pass under capture, a backward pass for each target, and the trace that methods read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attrib_plugin.capture import CaptureSession, call_padding, is_training, n_tokens, token_to_token
from attrib_plugin.errors import InputError, TargetError, TrainingModeWarning
from attrib_plugin.families import Member, ReadoutArgument, TokenFacts, token_layout
from attrib_plugin.methods.base.caller import warn_caller
from attrib_plugin.methods.base.inputs import ModelInput, cut_target
from attrib_plugin.methods.base.targets import Target, select_score, target_positions, unwrap_output
from attrib_plugin.records import AttentionCall, AttentionTrace, TokenLayout

_T = TypeVar("_T", Tensor, tuple[Tensor, ...])


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked of the model.

    Attributes:
        given: The checked arguments.
        targets: The targets explained, each with a backward pass of its own.
        against: The target whose score is subtracted.
        readout: The user's read-out; ``None`` asks the family.
        grid: The user's patch grid.
        prefix_tokens: The user's number of prefix tokens.
        internal_batch_size: Largest number of samples run at once.
    """

    given: ModelInput
    targets: Sequence[Target] = (None,)
    against: Target = None
    readout: ReadoutArgument = None
    grid: tuple[int, int] | None = None
    prefix_tokens: int | None = None
    internal_batch_size: int | None = None

    def batches(self) -> Iterator[Query]:
        """Cut into queries of at most ``internal_batch_size`` samples.

        Yields:
            The same query for some samples.
        """
        whole = self.given.batch_size
        for part, given in self.given.batches(self.internal_batch_size):
            yield replace(
                self,
                given=given,
                targets=[cut_target(target, part, whole) for target in self.targets],
                against=cut_target(self.against, part, whole),
                readout=_cut_readout(self.readout, part, whole),
            )


@dataclass(frozen=True, eq=False)
class Subject:
    """What is explained.

    Attributes:
        forward_func: What is called.
        model: The module inside it.
        member: The model as recognised.
    """

    forward_func: Callable[..., Any]
    model: nn.Module
    member: Member


def explain_targets(subject: Subject, query: Query, gradients: bool, read: Callable[[AttentionTrace], _T]) -> list[_T]:
    """Run the model and read every target's trace.

    Args:
        subject: What is explained.
        query: What is asked.
        gradients: Whether the method needs gradients.
        read: Turns a trace into tensors with the batch on their first axis.

    Returns:
        One result a target, for all samples.
    """
    if is_training(subject.model):
        warn_caller(
            f"{type(subject.model).__name__} is in training mode, so dropout changes its explanation from call to "
            "call. Call model.eval() first.",
            TrainingModeWarning,
        )
    if (size := query.internal_batch_size) is not None and size < 1:
        raise InputError(f"internal_batch_size must be at least 1, not {size}.")
    parts = [_explain_batch(subject, batch, gradients, read) for batch in query.batches()]
    return parts[0] if len(parts) == 1 else [_joined(list(of_target)) for of_target in zip(*parts, strict=True)]


def _explain_batch(subject: Subject, query: Query, gradients: bool, read: Callable[[AttentionTrace], _T]) -> list[_T]:
    results = []
    with CaptureSession(subject.model, gradients=gradients) as session:
        session.batch_size = query.given.batch_size
        output = unwrap_output(query.given.call(subject.forward_func))
        calls = token_to_token(session.calls, allow_pooling=query.readout is not None)
        for remaining, target in enumerate(query.targets, start=1 - len(query.targets)):
            output_gradients = None
            if gradients:
                score = select_score(output, target)
                if query.against is not None:
                    score = score - select_score(output, query.against)
                every = session.output_gradients(score, retain_graph=remaining < 0)
                output_gradients = tuple(every[call.index] for call in calls)
            layout = _layout(subject, query, calls, output, target)
            with torch.no_grad():
                results.append(read(AttentionTrace(calls, layout, output_gradients)))
    return results


def _layout(
    subject: Subject, query: Query, calls: tuple[AttentionCall, ...], output: Tensor, target: Target
) -> TokenLayout:
    given, tokens, readout = query.given, n_tokens(calls), query.readout
    if readout is None and subject.member.readout is None and output.dim() == 3 and output.shape[1] == tokens:
        # One output a token (token classification, language models): the target names the token that is read.
        readout = target_positions(target, given.batch_size)
        _check_same_token(readout, target_positions(query.against, given.batch_size))
    facts = TokenFacts(
        n_tokens=tokens,
        batch_size=given.batch_size,
        n_text_tokens=given.n_text_tokens,
        image_size=given.image_size,
        padding=None if given.image_size else call_padding(calls[0]),
        like=calls[0].output,
    )
    return token_layout(subject.member, facts, readout=readout, grid=query.grid, prefix_tokens=query.prefix_tokens)


def _check_same_token(target: Tensor | None, against: Tensor | None) -> None:
    if target is not None and against is not None and not torch.equal(target, against):
        raise TargetError(
            f"target and against must name outputs of the same token, found {target.tolist()} and {against.tolist()}. "
            "Say which token is read with readout=."
        )


def _cut_readout(readout: ReadoutArgument, part: slice, batch_size: int) -> ReadoutArgument:
    if not isinstance(readout, Tensor) or len(readout) != batch_size:
        return readout
    per_sample = readout.dim() == 2 or not readout.is_floating_point()
    return readout[part] if per_sample else readout


def _joined(parts: list[_T]) -> _T:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
