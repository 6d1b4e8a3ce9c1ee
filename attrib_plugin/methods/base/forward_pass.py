"""One forward pass under capture, a backward pass for each target, and the trace that methods read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attrib_plugin.capture import (
    ActivationTap,
    CaptureSession,
    GraphAtEmbeddings,
    call_padding,
    is_training,
    n_tokens,
    pooling_weights,
    token_to_token,
    with_graph,
    without_checkpoints,
)
from attrib_plugin.errors import (
    AttributionError,
    InputError,
    NumericsWarning,
    TargetError,
    TrainingModeWarning,
    UnsupportedAttentionError,
)
from attrib_plugin.families import Member, ReadoutArgument, TokenFacts, image_towers, opened_with, token_layout
from attrib_plugin.functional.choices import whole_number
from attrib_plugin.methods.base.caller import warn_caller
from attrib_plugin.methods.base.calling import explained_mismatch
from attrib_plugin.methods.base.inputs import ModelInput, cut_target
from attrib_plugin.methods.base.propagation import Propagation
from attrib_plugin.methods.base.targets import (
    Target,
    predicted_tokens,
    select_score,
    target_positions,
    token_targets,
    unwrap_output,
)
from attrib_plugin.records import AttentionCall, AttentionTrace, TokenLayout

_T = TypeVar("_T", Tensor, tuple[Tensor, ...])

Tap = Callable[[CaptureSession], AbstractContextManager[ActivationTap | None]]
"""Follows the activations of a layer during a session, for methods that weigh those in place of attention."""


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
        max_chunk_bytes: Largest block of attention formed at a time, in bytes.
        opening: How the user's call of the constructor begins, for messages that complete it.
        form: How a read-out is written in that call.
    """

    given: ModelInput
    targets: Sequence[Target] = (None,)
    against: Target = None
    readout: ReadoutArgument = None
    grid: tuple[int, int] | None = None
    prefix_tokens: int | None = None
    internal_batch_size: int | None = None
    max_chunk_bytes: int | None = None
    opening: str = "Method(model"
    form: str = "readout={}"

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


def _as_it_is(trace: AttentionTrace) -> AttentionTrace:
    return trace


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Which calls of a forward pass take part, and over which tokens.

    Attributes:
        calls: The calls, whose gradients are taken.
        facts: What is known about the tokens that the head reads.
        trace: Makes of the trace of these calls the one that the method reads.
    """

    calls: tuple[AttentionCall, ...]
    facts: TokenFacts
    trace: Callable[[AttentionTrace], AttentionTrace] = _as_it_is


def one_sequence(member: Member, query: Query, calls: tuple[AttentionCall, ...]) -> Arrangement:
    """Self-attention over one sequence of tokens; everything else is refused.

    Args:
        member: The model as recognised.
        query: What is asked.
        calls: All calls of the forward pass.

    Returns:
        The arrangement.
    """
    _refuse_image_towers(member, calls)
    known = query.readout is not None or member.readout is not None
    chosen = token_to_token(calls, allow_pooling=known)
    return Arrangement(chosen, _facts(query.given, chosen, pooling_weights(calls)))


def _refuse_image_towers(member: Member, calls: tuple[AttentionCall, ...]) -> None:
    # Patches may be as many as words, so that their layers would be multiplied as if they were of one sequence.
    towers = [f".{path}." for path in image_towers(member)]
    for call in calls:
        if any(tower in f".{call.name}." for tower in towers):
            raise UnsupportedAttentionError(
                f"{call.name!r} attends among the patches of an image, while {type(member.module).__name__} is "
                "explained over its words; layers of both are no layers of one sequence. Explain it without the image, "
                "or read the attention itself with capture_attention(model)."
            )


@dataclass(frozen=True, eq=False)
class Subject:
    """What is explained.

    Attributes:
        forward_func: What is called.
        model: The module inside it.
        member: The model as recognised.
        arrange: Chooses the calls that take part.
    """

    forward_func: Callable[..., Any]
    model: nn.Module
    member: Member
    arrange: Callable[[Member, Query, tuple[AttentionCall, ...]], Arrangement] = one_sequence


@dataclass(frozen=True, eq=False)
class Demand:
    """What a method needs of the passes.

    Attributes:
        gradients: Whether it needs gradients.
        tap: Follows the layer whose activations and their gradients are wanted in place of those of attention.
        propagation: What relevance is wanted, for methods that have rules.
    """

    gradients: bool = False
    tap: Tap | None = None
    propagation: Propagation | None = None


def explain_targets(subject: Subject, query: Query, demand: Demand, read: Callable[[AttentionTrace], _T]) -> list[_T]:
    """Run the model and read every target's trace.

    Args:
        subject: What is explained.
        query: What is asked.
        demand: What the method needs.
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
    size = query.internal_batch_size
    if size is not None and (whole_number(size) or 0) < 1:
        raise InputError(f"internal_batch_size must be at least 1, not {size!r}. Give a whole number.")
    parts = [_explain_batch(subject, batch, demand, read) for batch in query.batches()]
    return parts[0] if len(parts) == 1 else [_joined(list(of_target)) for of_target in zip(*parts, strict=True)]


def _explain_batch(subject: Subject, query: Query, demand: Demand, read: Callable[[AttentionTrace], _T]) -> list[_T]:
    results = _explain_once(subject, query, demand, read)
    if results is None:
        results = _explain_once(subject, query, demand, read, from_input=True)
    return results or []


def _explain_once(
    subject: Subject,
    query: Query,
    demand: Demand,
    read: Callable[[AttentionTrace], _T],
    *,
    from_input: bool = False,
) -> list[_T] | None:
    """The results; ``None`` if the graph has to begin at the input, which costs more and is therefore not the rule."""
    results = []
    gradients, propagation = demand.gradients, demand.propagation
    with torch.inference_mode(False), torch.enable_grad():
        given = _for_backward(query.given)
        graph, given = propagation.begin(given) if propagation else (None, given)
        if from_input and given.tensor.is_floating_point() and not given.keeps_graph:
            given = replace(given, tensor=with_graph(given.tensor.detach()), keeps_graph=True)
    windowed = subject.member.family.windowed
    with (
        without_checkpoints(),
        CaptureSession(subject.model, gradients=gradients, follow_positions=windowed, interpreter=graph) as session,
        (demand.tap or _no_tap)(session) as tapped,
        GraphAtEmbeddings() if from_input else nullcontext(),
    ):
        session.batch_size = query.given.batch_size
        with explained_mismatch(given.tensor, subject.model):
            returned = given.call(subject.forward_func)
        if session.began_in_checkpoint and not from_input:
            return None
        output = _of_one_pass(unwrap_output(returned), session, subject, query)
        arranged = subject.arrange(subject.member, query, session.calls)
        calls, facts = arranged.calls, arranged.facts
        predicted = predicted_tokens(output, facts.padding) if _scores_tokens(subject.member, output, facts) else None
        targets = [predicted if target is None else target for target in query.targets]
        scores = [_score(output, target, query.against) for target in targets] if gradients else []
        in_turn = session.gradients_of_scores(scores, calls=calls)
        for position, target in enumerate(targets):
            output_gradients = activation = relevance = None
            if gradients:
                score, last = scores[position], position == len(scores) - 1
                if tapped is not None:
                    activation = tapped.read(score, retain_graph=not last)
                elif propagation is None:
                    output_gradients = next(in_turn)
                elif propagation.at_calls:
                    output_gradients = session.output_gradients(score, retain_graph=True, calls=calls)
                if propagation is not None and graph is not None:
                    relevance = propagation.end(session, graph, given, calls, score, retain_graph=not last)
            layout = _layout(subject.member, query, facts, output, target)
            trace = AttentionTrace(
                calls, layout, output_gradients, activation, relevance, max_chunk_bytes=query.max_chunk_bytes
            )
            with torch.no_grad():
                results.append(read(arranged.trace(trace)))
    return results


def _of_one_pass(output: Tensor, session: CaptureSession, subject: Subject, query: Query) -> Tensor:
    """The scores, if the model has run once and there is one row of them for each sample."""
    runs = max(session.runs[subject.model], session.runs[subject.member.module])
    if runs > 1:
        raise UnsupportedAttentionError(
            f"{type(subject.member.module).__name__} ran {runs} times in one call, and attention of one pass is no "
            "layer above that of another. Expected a function that runs it once: explain each pass by itself."
        )
    if len(output) != query.given.batch_size:
        raise AttributionError(
            f"Expected scores for {query.given.batch_size} samples, found {len(output)} rows {tuple(output.shape)}. "
            "Return them with the batch as first axis."
        )
    return output


def _score(output: Tensor, target: Target, against: Target) -> Tensor:
    score = select_score(output, target)
    return score if against is None else score - select_score(output, against)


def _no_tap(session: CaptureSession) -> AbstractContextManager[None]:
    return nullcontext()


def _for_backward(given: ModelInput) -> ModelInput:
    """The arguments with copies of tensors made in inference mode, which cannot be saved for a backward pass."""

    def usable(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

    return replace(
        given,
        tensor=usable(given.tensor),
        arguments=tuple(map(usable, given.arguments)),
        keywords={name: usable(value) for name, value in given.keywords.items()},
    )


def _facts(given: ModelInput, calls: tuple[AttentionCall, ...], pooling: Tensor | None) -> TokenFacts:
    return TokenFacts(
        n_tokens=n_tokens(calls),
        batch_size=given.batch_size,
        n_text_tokens=given.n_text_tokens,
        image_size=given.image_size,
        padding=None if given.image_size else call_padding(calls[0]),
        like=calls[0].output,
        pooling=pooling,
        input_grid=None if calls[0].placement is None else calls[0].placement.input_grid,
    )


def _layout(member: Member, query: Query, facts: TokenFacts, output: Tensor, target: Target) -> TokenLayout:
    readout = query.readout
    if readout is None:
        # Where the model gives one output a token, the token that is named is read, whatever a head would read.
        readout = _named_positions(member, query, facts, output, target)
    is_named = readout is not None
    if readout is None:
        readout = member.family.read_positions(member.module, query.given.tensor)
    layout = token_layout(
        member,
        facts,
        readout=readout,
        grid=query.grid,
        prefix_tokens=query.prefix_tokens,
        opening=opened_with(query.opening, query.form, query.readout),
        form=query.form,
    )
    if is_named:  # where a family reads padding, that is what its head does
        _warn_of_padding(layout)
    return layout


def _warn_of_padding(layout: TokenLayout) -> None:
    if layout.padding is None:
        return
    lost = ~(layout.readout * ~layout.padding).any(-1) & ~layout.padding.all(-1)
    if lost.any():
        warn_caller(
            f"What is read of samples {lost.nonzero().flatten().tolist()} is padding, of which a map says nothing. "
            'readout="last" is the last real token; negative positions count from the end of the padded text.',
            NumericsWarning,
        )


def _named_positions(
    member: Member, query: Query, facts: TokenFacts, output: Tensor, target: Target
) -> ReadoutArgument:
    """The tokens that the target names, where the model gives one output a token."""
    if _scores_tokens(member, output, facts):
        find = token_targets
    elif output.dim() == 3 and output.shape[1] == facts.n_tokens:
        find = target_positions
    else:
        return None
    positions = find(target, facts.batch_size)
    _check_same_token(positions, find(query.against, facts.batch_size))
    return positions


def _scores_tokens(member: Member, output: Tensor, facts: TokenFacts) -> bool:
    return member.scores_tokens and output.shape == (facts.batch_size, facts.n_tokens)


def _check_same_token(target: Tensor | None, against: Tensor | None) -> None:
    if target is not None and against is not None and not torch.equal(target, against):
        raise TargetError(
            f"target and against must name outputs of the same token, found {target.tolist()} and {against.tolist()}. "
            "Say which token is read with readout=."
        )


def _cut_readout(readout: ReadoutArgument, part: slice, batch_size: int) -> ReadoutArgument:
    if not isinstance(readout, Tensor) or readout.dim() == 0 or len(readout) != batch_size:
        return readout
    per_sample = readout.dim() == 2 or not readout.is_floating_point()
    return readout[part] if per_sample else readout


def _joined(parts: list[_T]) -> _T:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
