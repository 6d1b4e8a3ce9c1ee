"""The layered graph of one sample: capacities in float64, and the sums and spans that bounds and engines read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attrib_plugin.functional.rollout import mix_residual

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Attention is called peaky where more than this share of its entries is below SMALL of an even row.
PEAKY_SHARE = 0.4
SMALL = 0.02


@dataclass(frozen=True, eq=False)
class Spans:
    """Where the positive capacities of every row and column lie; a superset, which prunes what cannot be reached.

    Attributes:
        first: First key of every query row, ``layer token``; past the end where the row is zero.
        last: Last key of every query row.
        column_first: First query of every key column.
        column_last: Last query of every key column.
    """

    first: NDArray[np.int32]
    last: NDArray[np.int32]
    column_first: NDArray[np.int32]
    column_last: NDArray[np.int32]

    @property
    def parts(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """The four, in order."""
        return self.first, self.last, self.column_first, self.column_last

    def part(self, layers: slice) -> Spans:
        """The spans of some layers.

        Args:
            layers: Which.

        Returns:
            Views of these.
        """
        return Spans(*(part[layers] for part in self.parts))


@dataclass(frozen=True, eq=False)
class Network:
    """Capacities of the edges from token j below layer l to token i above it, one sample.

    Attributes:
        layers: Capacities, ``layer query key``, from the input upwards; own memory, float64, contiguous.
        diagonal: Capacities from each token to itself, ``layer token``.
        off_rows: Sums of the rows without the diagonal.
        off_columns: Sums of the columns without the diagonal.
    """

    layers: NDArray[np.float64]
    diagonal: NDArray[np.float64]
    off_rows: NDArray[np.float64]
    off_columns: NDArray[np.float64]

    @classmethod
    def of(cls, layers: NDArray[np.float64]) -> Network:
        """Build the network of given capacities.

        Args:
            layers: Non-negative capacities, ``layer query key``, contiguous; kept, not copied.

        Returns:
            The network.
        """
        tokens = np.arange(layers.shape[1])
        diagonal = layers[:, tokens, tokens].copy()
        # Sums without the diagonal are not differences: beside a large diagonal small sums would lose their digits.
        layers[:, tokens, tokens] = 0.0
        off_rows, off_columns = layers.sum(2), layers.sum(1)
        layers[:, tokens, tokens] = diagonal
        return cls(layers, diagonal, off_rows, off_columns)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return int(self.layers.shape[1])

    @property
    def source_bounds(self) -> NDArray[np.float64]:
        """What each input token can send at most: its column of the first layer."""
        sums: NDArray[np.float64] = self.off_columns[0] + self.diagonal[0]
        return sums

    @property
    def output_bounds(self) -> NDArray[np.float64]:
        """What each output token can take at most: its row of the last layer."""
        sums: NDArray[np.float64] = self.off_rows[-1] + self.diagonal[-1]
        return sums

    def below(self, depth: int) -> Network:
        """The network had the model ended earlier.

        Args:
            depth: Number of layers kept.

        Returns:
            A network of views.
        """
        return Network(self.layers[:depth], self.diagonal[:depth], self.off_rows[:depth], self.off_columns[:depth])

    @cached_property
    def spans(self) -> Spans:
        """Where positive capacities lie in every row and column."""
        depth, n = self.layers.shape[:2]
        first, column_first = np.zeros((2, depth, n), np.int32)
        last, column_last = np.full((2, depth, n), n - 1, np.int32)
        for layer, capacities in enumerate(self.layers):
            if capacities.min() > 0.0:
                continue
            for positive, low, high in (
                (capacities > 0.0, first, last),
                ((capacities > 0.0).T, column_first, column_last),
            ):
                empty = ~positive.any(1)
                low[layer] = np.where(empty, n, positive.argmax(1))
                high[layer] = np.where(empty, -1, n - 1 - positive[:, ::-1].argmax(1))
        return Spans(first, last, column_first, column_last)

    @cached_property
    def small_threshold(self) -> float:
        """Below this, capacities are left for a second pass; 0 where attention is not peaky."""
        even = (self.off_rows + self.diagonal) / self.n_tokens
        small = sum(
            np.count_nonzero(layer <= SMALL * row[:, None]) for layer, row in zip(self.layers, even, strict=True)
        )
        return SMALL * float(even.mean()) if small > PEAKY_SHARE * self.layers.size else 0.0


def check_attention(attention: Tensor) -> None:
    """Refuse what cannot be a stack of capacities.

    Args:
        attention: ``layer batch query key``.

    Raises:
        ValueError: If it is not a floating tensor of that form, is empty, or holds negative or infinite values or NaN.
    """
    shape = tuple(attention.shape)
    if not attention.is_floating_point():
        raise ValueError(f"attention must have a floating dtype, not {attention.dtype}. Convert it with .double().")
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ValueError(
            f"attention must have shape (layer, batch, token, token), not {shape}. Fuse heads first, and stack layers."
        )
    if shape[0] == 0 or shape[2] == 0:
        raise ValueError(f"attention of shape {shape} is empty: there must be at least one layer and one token.")
    if shape[1] == 0:
        return
    lowest, highest = (float(bound) for bound in torch.aminmax(attention.detach()))
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ValueError("attention holds NaN or infinite values; capacities must be finite.")
    if lowest < 0.0:
        raise ValueError(f"attention must be non-negative to be a capacity, but its smallest entry is {lowest}.")


def sample_network(attention: Tensor, sample: int, residual: float | None) -> Network:
    """The network of one sample.

    Args:
        attention: ``layer batch query key``.
        sample: Which sample.
        residual: Share of the residual path, or ``None`` to take the values as capacities.

    Returns:
        The network, in float64.

    Raises:
        ValueError: If ``residual`` is outside 0 to 1.
    """
    layers = np.empty((attention.shape[0], *attention.shape[2:]))
    for layer, target in zip(attention[:, sample], layers, strict=True):
        capacities = layer.detach().to("cpu", torch.float64)
        target[:] = (capacities if residual is None else mix_residual(capacities, residual)).numpy()
    return Network.of(layers)
