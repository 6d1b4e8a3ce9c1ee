"""Which part of a layer's attention is formed at a time: some samples, heads, query rows and keys.

The rule is measured (``docs/explanation/performance.md``). On a CPU a block is formed, weighted and summed several
times over, so it should stay in the cache; but products with few rows are slow, so a block has at least
``LEAST_ROWS`` of them as long as ``max_chunk_bytes`` allows it. Other devices have no such cache and pay for every
launch: their blocks are as large as ``max_chunk_bytes`` allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MAX_CHUNK_BYTES = 32 * 2**20
"""Largest block of attention probabilities formed at a time by default, in bytes, over its samples and heads."""

CACHE_BYTES = 4 * 2**20
"""Size of a block that stays in the cache of a CPU while it is worked on, in bytes."""

LEAST_ROWS = 64
"""Query rows of a head below which a matrix product is slow."""

EVERYTHING = slice(None)


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some query rows of one layer, over all keys or, where no other key is attended to, a range of them.

    In a windowed layer a block is some of the windows, whole: ``batch`` are windows and ``token`` the slots of one.

    Attributes:
        probs: Attention probabilities; zero at keys that the model padded to fill a window.
        gradients: Gradient of the explained score with respect to them; ``None`` without gradients.
        rows: Where each row's own token is among the keys of the block; ``None`` where row i is key i.
        relevance: Relevance of the probabilities by the rules of a composite; ``None`` without one.
        samples: Which samples of the batch these are.
        keys: Which tokens the keys of the block are.
        is_lent: Whether the memory of its tensors is the next block's soon: a formula may write over them, and must
            not keep them.
    """

    probs: Float[Tensor, "batch head row token"]
    gradients: Float[Tensor, "batch head row token"] | None
    rows: Int[Tensor, " row"] | None
    relevance: Float[Tensor, "batch head row token"] | None = None
    samples: slice = field(default_factory=lambda: EVERYTHING)
    keys: slice = field(default_factory=lambda: EVERYTHING)
    is_lent: bool = False

    @property
    def weighted(self) -> tuple[Tensor, Tensor]:
        """Probabilities and gradients, for methods that declare ``needs_gradients``."""
        if self.gradients is None:
            raise ValueError("This layer was read without gradients; the method must set needs_gradients.")
        return self.probs, self.gradients

    @property
    def relevant(self) -> Tensor:
        """Relevance of the probabilities, for methods that have a composite."""
        if self.relevance is None:
            raise ValueError("This layer was read without relevance; the method must have a propagation.")
        return self.relevance


@dataclass(frozen=True)
class Part:
    """Which part of a layer a block contributes.

    Attributes:
        rows: Its query rows; ``None`` for all.
        share: Its share of the heads.
    """

    rows: Tensor | slice | None
    share: float


@dataclass(frozen=True)
class Sizes:
    """Sizes of a layer's attention.

    Attributes:
        samples: Number of samples.
        heads: Number of query heads.
        queries: Number of query rows that are wanted.
        keys: Number of keys.
        group: Query heads that share a key head.
        entry: Bytes of one probability.
    """

    samples: int
    heads: int
    queries: int
    keys: int
    group: int = 1
    entry: int = 4


@dataclass(frozen=True)
class Extent:
    """Which part of a layer a block is.

    Attributes:
        samples: Which samples.
        heads: Which query heads.
        rows: Which of the wanted rows.
    """

    samples: slice
    heads: slice
    rows: slice


def extents(
    sizes: Sizes, device: torch.device, *, max_chunk_bytes: int, cut_samples: bool, cut_heads: bool
) -> Iterator[Extent]:
    """Cut a layer into blocks.

    Args:
        sizes: Sizes of the layer.
        device: Where it is computed.
        max_chunk_bytes: Largest block, in bytes; a block has at least one row of every head that must not be cut off.
        cut_samples: Whether a block may hold some of the samples.
        cut_heads: Whether a block may hold some of the heads.

    Yields:
        Blocks that do not overlap, together all of the layer.
    """
    wished = min(CACHE_BYTES, max_chunk_bytes) if device.type == "cpu" else max_chunk_bytes
    samples = 1 if cut_samples else sizes.samples
    heads = 1 if cut_heads else sizes.heads
    bytes_per_row = samples * heads * sizes.keys * sizes.entry
    rows = max(wished // bytes_per_row, min(LEAST_ROWS, max_chunk_bytes // bytes_per_row), 1)
    if rows >= sizes.queries:
        rows = max(sizes.queries, 1)
        room = max(wished // (rows * bytes_per_row), 1)
        if cut_heads:
            heads = _whole_groups(min(room, sizes.heads), sizes.group)
            room = room // sizes.heads
        if cut_samples and heads == sizes.heads:
            samples = max(min(room, sizes.samples), 1)
    for some_samples in _slices(sizes.samples, samples):
        for some_heads in _slices(sizes.heads, heads):
            for some_rows in _slices(sizes.queries, rows):
                yield Extent(some_samples, some_heads, some_rows)


def checked_chunk(max_chunk_bytes: int) -> int:
    """The size of a block that a user wants.

    Args:
        max_chunk_bytes: In bytes.

    Returns:
        The same.

    Raises:
        ValueError: If it is below 1.
    """
    if max_chunk_bytes < 1:
        raise ValueError(f"max_chunk_bytes must be at least 1, not {max_chunk_bytes}.")
    return max_chunk_bytes


def whole_extent(sizes: Sizes) -> Extent:
    """All of a layer as one block.

    Args:
        sizes: Sizes of the layer.

    Returns:
        The extent.
    """
    return Extent(slice(0, sizes.samples), slice(0, sizes.heads), slice(0, sizes.queries))


def rows_within(rows: Tensor | slice | None, chosen: slice, wanted: int) -> Tensor | slice | None:
    """Some of the rows that are wanted.

    Args:
        rows: Which rows are wanted; ``None`` for all.
        chosen: Which of those.
        wanted: How many are wanted.

    Returns:
        Which rows they are; ``None`` for all.
    """
    if chosen == slice(0, wanted):
        return rows
    if rows is None:
        return chosen
    return slice(rows.start + chosen.start, rows.start + chosen.stop) if isinstance(rows, slice) else rows[chosen]


def columns_of(weights: Float[Tensor, "... token"], rows: Tensor | slice | None) -> Float[Tensor, "... row"]:
    """Weights of some rows.

    Args:
        weights: One weight a token.
        rows: Which rows; ``None`` for all.

    Returns:
        Their weights.
    """
    if rows is None:
        return weights
    return weights[..., rows] if isinstance(rows, slice) else weights.index_select(-1, rows)


def as_slice(rows: Int[Tensor, " row"]) -> slice | Tensor:
    """Ascending indices as a slice, where they follow each other, since a slice needs no copy.

    Args:
        rows: The indices.

    Returns:
        The slice, or the indices themselves.
    """
    if len(rows) == 0:
        return slice(0, 0)
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _whole_groups(heads: int, group: int) -> int:
    """Heads a block, at most so many, such that no block has heads of two key heads without having all of both."""
    if heads >= group:
        return heads - heads % group
    return max(size for size in range(1, heads + 1) if group % size == 0)


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
