"""One operation of a forward pass, as a rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attrib_plugin.functional.lrp import LinearMap, Stabilizer
from attrib_plugin.propagation.samples import Samples

Relevances = tuple[Tensor | None, ...]


@dataclass(eq=False)
class Step:
    """An operation that was run, and what its rule needs.

    Attributes:
        kind: What it is: ``"linear"``, ``"sum"``, ``"attention"`` ...
        module: Dotted name of the module that ran it.
        inputs: The operands that can carry relevance, detached from the model's graph: leaves of a graph of their own.
        carries: Which of them relevance may reach; the others are constants.
        output: The result, on that graph.
        linear: The map of a linear layer or convolution.
        options: Further arguments that the rule reads.
        samples: Where samples are in its tensors.
        kept: The values of the output, where the model went on to change its tensor in place.
    """

    kind: str
    module: str
    inputs: tuple[Tensor, ...]
    carries: tuple[bool, ...]
    output: Tensor
    linear: LinearMap | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: Samples = field(default_factory=lambda: Samples(1))
    kept: Tensor | None = None

    def __post_init__(self) -> None:
        self._versions = [one._version for one in (*self.inputs, self.output)]

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The operands without any graph, at least float32."""
        return tuple(at_least_float32(one.detach()) for one in self.inputs)

    @property
    def result(self) -> Tensor:
        """The output without any graph, at least float32."""
        return at_least_float32(self.output.detach() if self.kept is None else self.kept)

    def keep_result(self) -> None:
        """Keep the values of the output before the model changes its tensor in place."""
        if self.kept is None:
            self.kept = self.output.detach().clone()

    @property
    def is_intact(self) -> bool:
        """Whether operands and result still have the values that they had."""
        now = [one._version for one in (*self.inputs, self.output)]
        return now[:-1] == self._versions[:-1] and (self.kept is not None or now[-1] == self._versions[-1])

    def few_rows(self, message: Tensor) -> Tensor | None:
        """The rows of a fully connected layer that a message is about, where they are at most half of all.

        Above the last attention most tokens have neither gradient nor relevance, if one token is read.

        Args:
            message: One number an entry of the output.

        Returns:
            Their indices among all rows; ``None`` where looking at all rows is the better way.
        """
        if self.linear is None or not self.linear.by_row or message.dim() < 2:
            return None
        rows = message.flatten(0, -2).any(-1)
        found = rows.nonzero().squeeze(-1)
        return found if 2 * len(found) <= len(rows) else None

    def gradients(self, message: Tensor) -> Relevances:
        """The message taken through the operation by the chain rule.

        Args:
            message: One number an entry of the output.

        Returns:
            One tensor an operand; ``None`` for constants.
        """
        if self.linear is not None and (rows := self.few_rows(message)) is not None:
            few = message.flatten(0, -2)[rows].to(self.linear.weight.dtype)
            return (self.scattered(rows, self.linear.transpose(few, self.linear.weight)),)
        wanted = [one for one, carried in zip(self.inputs, self.carries, strict=True) if carried]
        message = message.to(self.output.dtype)
        found = iter(torch.autograd.grad(self.output, wanted, message, retain_graph=True, allow_unused=True))
        return tuple(next(found) if carried else None for carried in self.carries)

    def scattered(self, rows: Tensor, found: Tensor) -> Tensor:
        """What was found for some rows of the operand, with zero for the others.

        Args:
            rows: Indices of the rows, over all axes but the last.
            found: One row each.

        Returns:
            A tensor of the shape of the first operand.
        """
        whole = found.new_zeros(self.inputs[0].shape)
        whole.view(-1, whole.shape[-1])[rows] = found
        return whole

    def contributions(self, relevance: Tensor, divide: Stabilizer) -> Relevances:
        """Relevance in proportion to input times gradient: x ⊙ ∂⟨z, R/z⟩/∂x.

        Args:
            relevance: Relevance of the output.
            divide: The stabiliser.

        Returns:
            One tensor an operand; ``None`` for constants.
        """
        values = self.values
        if self.kind == "softmax":  # a masked score is minus infinity, and has no relevance
            values = tuple(value.masked_fill(value.isinf(), 0.0) for value in values)
        pairs = zip(values, self.gradients(divide(relevance, self.result)), strict=True)
        return tuple(None if gradient is None else value * gradient for value, gradient in pairs)


def at_least_float32(tensor: Tensor) -> Tensor:
    """A half-precision tensor in float32, any other as it is.

    Args:
        tensor: The tensor.

    Returns:
        Its values.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


Rule = Callable[[Step, Tensor], Relevances]
"""From an operation and the relevance of its output to the relevance of each operand."""
