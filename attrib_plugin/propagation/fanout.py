"""Where one tensor is used several times, for composites that make a rule of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attrib_plugin.propagation.operation import Passage
from attrib_plugin.propagation.rules import Fanout


@dataclass(eq=False)
class _Junction:
    """A tensor, kept so that its id stays its own, and how often it is used."""

    tensor: Tensor
    linear: int = 0
    others: int = 0


class Junctions:
    """Every tensor of a graph that is used, with its uses.

    Args:
        rule: What happens at a fan-out.
        passage: What backward passes carry.
    """

    def __init__(self, rule: Fanout, passage: Passage) -> None:
        self._rule = rule
        self._passage = passage
        self._by_id: dict[int, _Junction] = {}

    def tap(self, tensor: Tensor, *, is_linear: bool) -> Tensor:
        """One more use of a tensor.

        Args:
            tensor: The tensor.
            is_linear: Whether a linear layer uses it.

        Returns:
            The tensor for that use.
        """
        junction = self._by_id.setdefault(id(tensor), _Junction(tensor))
        if is_linear:
            junction.linear += 1
        else:
            junction.others += 1
        branch: Tensor = _Branch.apply((self._passage, self._rule, junction), is_linear, tensor)
        return branch

    def forget(self, tensor: Tensor) -> None:
        """A tensor gets other values; its uses so far are those of another tensor.

        Args:
            tensor: The tensor.
        """
        self._by_id.pop(id(tensor), None)


class _Branch(torch.autograd.Function):
    """One of the uses of a tensor."""

    @staticmethod
    def forward(ctx: Any, at: tuple[Passage, Fanout, _Junction], is_linear: bool, tensor: Tensor) -> Tensor:
        ctx.passage, ctx.rule, ctx.junction = at
        ctx.is_linear = is_linear
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, message: Tensor) -> Any:
        rule, junction = ctx.rule, ctx.junction
        if ctx.passage.is_propagating:
            value = junction.tensor.detach()
            if ctx.is_linear and rule.among_linear and junction.linear > 1:
                message = rule.divide.damp(message, value)
            if junction.others + bool(junction.linear) > 1:
                message = rule.divide.damp(message, value)
        return None, None, message
