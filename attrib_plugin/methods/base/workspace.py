"""Memory that the blocks of a layer are formed in, one after another."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


class Workspace:
    """Memory by name, lent again and again.

    A block of a few MiB is more than C libraries keep for the next one: they hand it back to the system, and every
    page of the next block is cleared before it is used. On a CPU that took longer than all arithmetic with the block
    (``docs/explanation/performance.md``). Allocators of other devices keep what they have, so nothing is gained there.
    """

    def __init__(self) -> None:
        self._lent: dict[tuple[str, torch.dtype], Tensor] = {}

    def lend(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for one tensor, which ends what was lent under that name before.

        Args:
            name: What it is for.
            shape: The tensor's shape.
            dtype: Its type.

        Returns:
            A contiguous tensor on the CPU, of any values.
        """
        size = prod(shape)
        held = self._lent.get((name, dtype))
        if held is None or held.numel() < size:
            held = self._lent[name, dtype] = torch.empty(size, dtype=dtype)
        return held[:size].view(shape)
