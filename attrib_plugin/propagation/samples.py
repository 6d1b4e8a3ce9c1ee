"""Which entries of a tensor belong to which sample of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrib_plugin.errors import UnsupportedOperationError


@dataclass(eq=False)
class Samples:
    """The samples of a batch, as they lie in the tensors of a model.

    Attributes:
        count: Number of samples.
        second: Whether samples are on the second axis where both axes have their number, as in
            ``nn.MultiheadAttention(batch_first=False)``.
    """

    count: int
    second: bool = False

    def axis(self, shape: Sequence[int]) -> int | None:
        """The axis of the samples.

        Args:
            shape: Shape of a tensor of the model.

        Returns:
            The axis; ``None`` where samples lie on the first axis together with tokens or windows.
        """
        found = [axis for axis in range(min(2, len(shape))) if shape[axis] == self.count]
        if len(found) == 2 and not (self.second and len(shape) == 3):
            found = found[:1]
        return found[-1] if found else None

    def apart(self, tensor: Tensor) -> Tensor:
        """A tensor with the samples on an axis of their own, the first.

        Args:
            tensor: A tensor of the model.

        Returns:
            A view of it.

        Raises:
            UnsupportedOperationError: If the samples cannot be told apart.
        """
        axis = self.axis(tensor.shape)
        if axis is not None:
            return tensor.movedim(axis, 0)
        if tensor.dim() == 0 or len(tensor) % self.count:
            raise UnsupportedOperationError(
                f"A tensor of shape {tuple(tensor.shape)} does not show which of its rows belong to which of "
                f"{self.count} samples, so relevance cannot be summed per sample. Explain one sample at a time "
                "(internal_batch_size=1)."
            )
        # Samples come before windows and tokens wherever models join them.
        return tensor.reshape(self.count, -1, *tensor.shape[1:])

    def run(self, rule: Callable[..., tuple[Tensor, Tensor]], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run a rule that wants samples on the first axis.

        Args:
            rule: From tensors of one shape to tensors of that shape.
            *tensors: Its arguments, the last of full shape and the others broadcastable to it.

        Returns:
            What the rule returns, with the axes as they were.
        """
        shape = tensors[-1].shape
        axis = self.axis(shape)
        if axis == 0:
            return rule(*(one.expand(shape) for one in tensors))
        found = rule(*(self.apart(one.expand(shape)) for one in tensors))
        return tuple(one.flatten(0, 1) if axis is None else one.movedim(0, axis) for one in found)

    def sums(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum of tensors, sample by sample.

        Args:
            tensors: Tensors of the model; where samples cannot be told apart, each gets an equal part.

        Returns:
            One number a sample, in float64.
        """
        total = torch.zeros(self.count, dtype=torch.float64, device=tensors[0].device)
        for tensor in tensors:
            whole = tensor.detach()
            if self.axis(whole.shape) is None and (whole.dim() == 0 or len(whole) % self.count):
                total += whole.sum(dtype=torch.float64) / self.count
            else:
                total += self.apart(whole).reshape(self.count, -1).sum(1, dtype=torch.float64)
        return total
