"""An operation as a node of autograd whose backward is the chain rule or a relevance rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attrib_plugin.errors import UnsupportedOperationError
from attrib_plugin.propagation.parsing import Parsed
from attrib_plugin.propagation.samples import Samples
from attrib_plugin.propagation.step import Rule, Step, at_least_float32


@dataclass(eq=False)
class Flow:
    """Relevance that passed one operation.

    Attributes:
        kind: The kind of operation.
        module: The module that ran it.
        received: Sum of the relevance of its output, one number a sample.
        passed: Sum of the relevance of its operands, one number a sample.
    """

    kind: str
    module: str
    received: Tensor
    passed: Tensor


@dataclass(eq=False)
class Passage:
    """What backward passes carry now: all that nodes know of the graph that they are in.

    Nodes must not hold anything that holds tensors of the graph: such a ring is never freed.

    Attributes:
        samples: The samples.
        flows: Where to write down what passes every operation; ``None`` for nowhere.
        is_propagating: Whether backward passes carry relevance instead of gradients.
    """

    samples: Samples
    flows: list[Flow] | None = None
    is_propagating: bool = False

    def write_down(self, step: Step, relevance: Tensor, passed: Sequence[Tensor | None]) -> None:
        """Add an operation to the ledger.

        Args:
            step: The operation.
            relevance: Relevance of its output.
            passed: Relevance of its operands.
        """
        if self.flows is not None:
            found = [one for one in passed if one is not None]
            received = self.samples.sums([relevance])
            self.flows.append(Flow(step.kind, step.module, received, self.samples.sums(found)))


class Operation(torch.autograd.Function):
    """An operation on a graph of its own, so that its backward is ours to choose.

    ``apply(passage, rule, parsed, module, *operands)``, with the tensor that takes the result as last argument where
    the operation runs in place.
    """

    @staticmethod
    def forward(ctx: Any, passage: Passage, rule: Rule, parsed: Parsed, module: str, *tensors: Tensor) -> Tensor:
        """Run the operation on stand-ins of its operands."""
        n_operands = len(parsed.operands)
        operands, changed = tensors[:n_operands], tensors[n_operands:]
        carried = tuple(one.requires_grad for one in operands)
        leaves = parsed.leaves or tuple(
            (one.detach().clone() if changed else one.detach()).requires_grad_(carry)
            for one, carry in zip(operands, carried, strict=True)
        )
        with torch.enable_grad():
            output = parsed.call(*leaves)
        ctx.passage, ctx.rule, ctx.n_changed = passage, rule, len(changed)
        ctx.step = Step(
            kind=parsed.kind,
            module=module,
            inputs=leaves,
            carries=carried,
            output=output,
            linear=parsed.linear(at_least_float32(leaves[0].detach())) if parsed.linear else None,
            options=parsed.options,
            samples=passage.samples,
        )
        if not changed:
            return output.detach()
        ctx.mark_dirty(changed[0])
        return changed[0].copy_(output.detach())

    @staticmethod
    def backward(ctx: Any, message: Tensor) -> Any:
        """Hand gradients or relevance down."""
        step = ctx.step
        if not step.is_intact:
            raise UnsupportedOperationError(
                f"The model changed in place what a {step.kind} operation in {step.module or 'the model'!r} had read "
                "or made, so its relevance is lost. Methods without relevance rules (GradientRollout) may still work."
            )
        if ctx.passage.is_propagating:
            found = ctx.rule(step, message)
            ctx.passage.write_down(step, message, found)
        else:
            found = step.gradients(message)
        return (None, None, None, None, *found, *(None,) * ctx.n_changed)


def reads_input(tensor: Tensor) -> bool:
    """Whether a tensor holds nothing but values at which the graph starts, moved, scaled or shifted at most.

    Args:
        tensor: Any tensor of the graph.

    Returns:
        Whether it does.
    """
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if (step := getattr(node, "step", None)) is not None and step.kind not in ("scaling", "bias"):
            return False
        waiting += [below for below, _ in node.next_functions]
    return True


def producer(tensor: Tensor) -> Step | None:
    """The operation that made a tensor, through views of its result.

    Args:
        tensor: Any tensor of the graph.

    Returns:
        The operation; ``None`` for a tensor that no operation made.
    """
    node: Any = tensor.grad_fn
    while node is not None and not hasattr(node, "step"):
        node = node.next_functions[0][0] if node.next_functions else None
    step: Step | None = None if node is None else node.step
    return step
