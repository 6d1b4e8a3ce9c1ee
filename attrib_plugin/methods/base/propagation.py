"""Relevance propagation beside a forward pass under capture: what is asked of it, and the pass itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attrib_plugin.capture import CaptureSession
from attrib_plugin.errors import CaptureError, InputError, NumericsWarning, UnsupportedAttentionError
from attrib_plugin.functional.lrp import EXACT, Stabilizer
from attrib_plugin.methods.base.caller import warn_caller
from attrib_plugin.methods.base.inputs import ModelInput
from attrib_plugin.propagation import COMPOSITES, BlockTokens, Composite, Flow, RelevanceGraph
from attrib_plugin.records import AttentionCall, PropagatedRelevance


@dataclass(frozen=True)
class Propagation:
    """What relevance a method asks for.

    Attributes:
        composite: The rules.
        at_calls: Whether relevance of attention outputs is wanted.
        at_inputs: Whether relevance of pixels or embeddings is wanted.
        at_blocks: Whether relevance of tokens between blocks is wanted.
        ledger: Where to write down what passes every operation; ``None`` for nowhere.
    """

    composite: Composite
    at_calls: bool = False
    at_inputs: bool = False
    at_blocks: bool = False
    ledger: list[Flow] | None = None

    def begin(self, given: ModelInput) -> tuple[RelevanceGraph, ModelInput]:
        """The graph of one forward pass, and the arguments with which it starts.

        Args:
            given: The arguments.

        Returns:
            The graph, and the arguments, which are its start.
        """
        ids = None
        # The graph starts at the input even where relevance ends at the first attention: a residual sum there is one
        # only if its other summand can carry relevance as well.
        if given.tensor.is_floating_point():
            given = replace(given, tensor=given.tensor.detach().clone().requires_grad_(), keeps_graph=True)
        else:
            given = replace(given, tensor=given.tensor.clone())
            ids = given.tensor
        return RelevanceGraph(self.composite, given.batch_size, ids=ids, ledger=self.ledger is not None), given

    def end(
        self,
        session: CaptureSession,
        graph: RelevanceGraph,
        given: ModelInput,
        calls: Sequence[AttentionCall],
        score: Tensor,
        *,
        retain_graph: bool,
    ) -> PropagatedRelevance:
        """Propagate the relevance of a score back; one backward pass, or two where the score is a difference.

        Args:
            session: The session of the forward pass.
            graph: Its graph.
            given: Its arguments.
            calls: The attention calls that take part.
            score: One score a sample.
            retain_graph: Whether another backward pass will follow.

        Returns:
            The relevance asked for.

        Raises:
            CaptureError: If the score does not depend on what the model returned, or the input is not part of it.
        """
        if calls[0].output.dtype in (torch.float16, torch.bfloat16) and self.composite.is_delicate:
            warn_caller(
                f"The rules of {self.composite.name!r} are ill-conditioned in {calls[0].output.dtype}: the map may be "
                "far from that of the float32 model. Call model.float() first, or use GradientRollout.",
                NumericsWarning,
            )
        source = given.tensor if given.keeps_graph else graph.embeddings
        if self.at_inputs and source is None:
            raise CaptureError(
                "The embeddings of the token ids were not seen, so relevance has no place to arrive at. Give "
                "embeddings (batch, token, dim) as inputs, or use a method that ends at attention."
            )
        blocks = _blocks(graph.blocks, calls) if self.at_blocks else []
        if self.at_blocks and not blocks:
            raise CaptureError(
                "No blocks of tokens (batch, token, dim) were seen around the attention calls, so there is no "
                "relevance between blocks. That of the input is still there: attribute() with destination='input'."
            )
        at_calls = [session.node(call) for call in calls] if self.at_calls else []
        at_inputs = [source] if self.at_inputs else []
        at_blocks = [blocks[0].before, *(block.after for block in blocks)] if blocks else []
        places: list[Any] = [*at_calls, *at_inputs, *at_blocks]
        passes = _by_sign(_starts(session, score, self.composite), self.composite)
        found: list[list[Tensor]] = []
        flows: list[list[Flow]] = []
        for remaining, starts in enumerate(passes, start=1 - len(passes)):
            keep = retain_graph or remaining < 0
            with graph.propagating():
                arrived = torch.autograd.grad(session.outputs, places, starts, retain_graph=keep, allow_unused=True)
            found.append([_at_least_float32(_defined(one, calls)) for one in arrived])
            flows.append(graph.flows_of_last_pass())
        if self.ledger is not None:
            self.ledger.extend(_together(flows))
        at = [sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True)]
        n_calls, n_inputs = len(at_calls), len(at_inputs)
        shares = tuple(
            _division(self.composite, call)(one, call.output.detach())
            for call, one in zip(calls if at_calls else (), at[:n_calls], strict=True)
        )
        return PropagatedRelevance(
            shares=shares,
            inputs=at[n_calls] if n_inputs else None,
            blocks=tuple(one.sum(-1) for one in at[n_calls + n_inputs :]),
        )


def find_composite(composite: str | Composite) -> Composite:
    """A composite by itself or by its name.

    Args:
        composite: The composite or its name.

    Returns:
        The composite.

    Raises:
        InputError: If there is none of that name.
    """
    if isinstance(composite, Composite):
        return composite
    if composite not in COMPOSITES:
        raise InputError(f"There is no composite {composite!r}. Known: {', '.join(COMPOSITES)}.")
    return COMPOSITES[composite]()


def _starts(session: CaptureSession, score: Tensor, composite: Composite) -> list[Tensor]:
    """Relevance of what the model returned: the score's gradient, times the values where relevance is their share."""
    if not session.outputs:
        raise CaptureError("Nothing that the model returned has a graph, so there is no relevance to propagate.")
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        score.sum(), session.outputs, retain_graph=True, allow_unused=True
    )
    if all(gradient is None for gradient in gradients):
        raise CaptureError("The explained score does not depend on what the model returned in its last forward pass.")
    filled = [
        torch.zeros_like(output) if gradient is None else gradient
        for output, gradient in zip(session.outputs, gradients, strict=True)
    ]
    if composite.start == "one":
        return filled
    return [gradient * output.detach() for output, gradient in zip(session.outputs, filled, strict=True)]


def _by_sign(starts: list[Tensor], composite: Composite) -> list[list[Tensor]]:
    """What is propagated by itself: all, or what speaks for the score apart from what speaks against it.

    Rescaled sums hand on no more than the total that they receive, which is zero for a score minus another. All other
    rules are linear in relevance.
    """
    mixed = any((start > 0).any() for start in starts) and any((start < 0).any() for start in starts)
    if not composite.is_delicate or not mixed:
        return [starts]
    return [[start.clamp(min=0) for start in starts], [start.clamp(max=0) for start in starts]]


def _together(passes: Sequence[Sequence[Flow]]) -> list[Flow]:
    """What passed the operations in passes over the same graph, as one pass."""
    return [
        Flow(
            kind=of_one[0].kind,
            module=of_one[0].module,
            received=sum(flow.received for flow in of_one[1:]) + of_one[0].received,
            passed=sum(flow.passed for flow in of_one[1:]) + of_one[0].passed,
        )
        for of_one in zip(*passes, strict=True)
    ]


def _division(composite: Composite, call: AttentionCall) -> Stabilizer:
    rule: Any = composite.rule("attention" if call.weights is None else "product", call.name)
    return getattr(rule, "divide", EXACT)


def _defined(relevance: Tensor | None, calls: Sequence[AttentionCall]) -> Tensor:
    if relevance is None:
        raise UnsupportedAttentionError(
            f"No relevance arrives at some of the {len(calls)} attention calls or at the input: the explained score "
            "does not depend on them. Does forward use torch.no_grad or .detach()?"
        )
    if not torch.isfinite(relevance).all():
        warn_caller(
            "Propagated relevance has NaN or infinite values; run the model in float64 (model.double()).",
            NumericsWarning,
        )
    return relevance


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _blocks(recorded: Sequence[BlockTokens], calls: Sequence[AttentionCall]) -> list[BlockTokens]:
    """For each attention call, the innermost recorded module around it that stands in a list."""
    chosen: list[BlockTokens] = []
    names = {call.name for call in calls}
    for block in recorded:
        inside = block.name.rsplit(".", 1)
        in_list = len(inside) == 2 and (inside[1].isdigit() or inside[1].startswith("encoder_layer_"))
        if in_list and any(name == block.name or name.startswith(f"{block.name}.") for name in names):
            chosen.append(block)
    return _outermost(chosen)


def _outermost(blocks: Sequence[BlockTokens]) -> list[BlockTokens]:
    """Blocks that are not parts of other blocks."""
    names = {block.name for block in blocks}
    return [
        block
        for block in blocks
        if not any(block.name.startswith(f"{other}.") for other in names if other != block.name)
    ]
