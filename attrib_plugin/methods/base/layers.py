"""One attention layer as methods use it: a matrix of N tokens by N tokens that is never formed whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrib_plugin.capture import (
    call_gradient,
    call_probabilities,
    can_be_cut,
    differs_by_head,
    part_of_call,
    visible_keys,
)
from attrib_plugin.methods.base.blocks import (
    EVERYTHING,
    MAX_CHUNK_BYTES,
    Extent,
    Part,
    RowBlock,
    Sizes,
    as_slice,
    columns_of,
    extents,
    rows_within,
    whole_extent,
)
from attrib_plugin.methods.base.windows import Windows, merged_from, some_windows
from attrib_plugin.methods.base.workspace import Workspace
from attrib_plugin.records import AttentionCall, AttentionTrace

if TYPE_CHECKING:
    from jaxtyping import Float

LayerMatrix = Callable[[RowBlock], Tensor]
"""A method's formula: from some rows of attention to the same rows of its matrix, ``... batch row token``."""


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """What a forward pass and backward passes gave for one layer.

    Attributes:
        call: The recorded call.
        output_gradient: Gradient of the explained score with respect to the call's output; ``None`` without gradients.
        output_share: Relevance of the call's output divided by it; ``None`` without propagation.
    """

    call: AttentionCall
    output_gradient: Tensor | None = None
    output_share: Tensor | None = None


class AttentionLayer:
    """A layer whose matrix is computed in blocks of query rows from what the call recorded.

    Args:
        records: All layers of the model, from the input upwards.
        position: Which of them this is, from 0.
        max_chunk_bytes: Largest block of attention formed at a time, in bytes.
        workspace: Memory that its blocks may share with those of other layers; its own by default.
    """

    def __init__(
        self,
        records: Sequence[LayerRecord],
        position: int,
        *,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        workspace: Workspace | None = None,
    ) -> None:
        self.position = position
        self._workspace = workspace or Workspace()
        self._max_chunk_bytes = max_chunk_bytes
        self.n_layers = len(records)
        self._records = records
        own = records[position]
        self._call = own.call
        self._output_gradient = own.output_gradient
        self._output_share = own.output_share
        self._windows = None if own.call.placement is None else Windows(own.call.placement)

    @property
    def pairs(self) -> Tensor | None:
        """Which tokens can attend to which, ``token token``; ``None`` where all can."""
        return None if self._windows is None else self._windows.pairs

    def below(self, rows: Float[Tensor, "... token"]) -> Float[Tensor, "... token"]:
        """Rows over this layer's tokens as rows over the tokens that the layer below gave, or over the patches.

        Args:
            rows: One value a token of this layer.

        Returns:
            The rows themselves, unless tokens were merged between the two layers: then each gives its value to the
            tokens that it was made from, by their shares.
        """
        placement = self._call.placement
        return rows if placement is None else merged_from(rows, placement.mergings)

    @property
    def mirrored(self) -> AttentionLayer:
        """The layer that is as far from the top as this one is from the bottom."""
        position = self.n_layers - 1 - self.position
        return AttentionLayer(self._records, position, max_chunk_bytes=self._max_chunk_bytes, workspace=self._workspace)

    def times(
        self,
        weights: Float[Tensor, "... token"],
        matrix: LayerMatrix,
        *,
        averages_heads: bool = False,
        needs_all_keys: bool = False,
        keeps_nothing: bool = False,
    ) -> Float[Tensor, "... token"]:
        """Row vectors times the layer's matrix; only rows with a weight are computed.

        Args:
            weights: Weight of every query row, ``... batch vector token``.
            matrix: The method's formula. It treats every sample and row by itself, and an entry of its result that has
                no attention is zero, or the row's own.
            averages_heads: Whether the result is the mean over heads of what it would be for each of them, so that
                some heads can be taken at a time. It need not be where a mask hides other keys from each head.
            needs_all_keys: Whether the formula looks at gradients of keys that a row cannot attend to.
            keeps_nothing: Whether the formula keeps no tensor of a block, so that all blocks can share their memory.

        Returns:
            ``weights @ matrix``, of the shape that broadcasting gives.
        """
        if self._windows is not None:
            return self._in_windows(self._windows, weights, matrix, torch.matmul)
        weighted_rows = weights.reshape(-1, weights.shape[-1]).ne(0).any(0)
        rows = None if weighted_rows.all() else as_slice(weighted_rows.nonzero().squeeze(-1))
        total: Tensor | None = None
        parts = self._parts(rows, averages_heads=averages_heads, needs_all_keys=needs_all_keys, is_lent=keeps_nothing)
        for part, block in parts:
            chosen = columns_of(weights[..., block.samples, :, :], part.rows)
            formed = matrix(block)
            product = chosen.to(formed.dtype) @ formed
            if part.share != 1:
                product *= part.share
            if total is None:
                total = product.new_zeros(*product.shape[:-3], *weights.shape[-3:-1], self._n_keys)
            total[..., block.samples, :, block.keys] += product
        return torch.zeros_like(weights) if total is None else total.to(weights.dtype)

    def applied_to(self, values: Float[Tensor, "... token"], matrix: LayerMatrix) -> Float[Tensor, "... token"]:
        """The layer's matrix times column vectors, in blocks of rows.

        Args:
            values: One value a key.
            matrix: The method's formula.

        Returns:
            ``matrix @ values``, one value a query.
        """
        if self._windows is not None:
            columns = values[..., None, :]
            product = self._in_windows(self._windows, columns, matrix, lambda rows, block: (block @ rows.mT).mT)
            return product.squeeze(-2)
        parts = [(matrix(block).to(values.dtype) @ values[..., None])[..., 0] for block in self._blocks()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def matrix(self, matrix: LayerMatrix) -> Float[Tensor, "... token token"]:
        """The layer's whole matrix.

        Args:
            matrix: The method's formula.

        Returns:
            All rows; memory N x N for each sample.
        """
        if self._windows is not None:
            whole = [matrix(block) for _, block in self._window_blocks(self._windows, None)]
            return self._windows.dense(torch.cat(whole, dim=-3))
        blocks = [matrix(block) for block in self._blocks()]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)

    def by_head(self, matrix: LayerMatrix) -> Float[Tensor, "batch head token token"]:
        """Like :meth:`matrix`, for a formula that keeps the heads.

        Args:
            matrix: From some rows of attention to something for each entry of them, ``batch head row token``.

        Returns:
            All rows; memory N x N for each sample and head.
        """
        if self._windows is None:
            return self.matrix(matrix)
        return self.matrix(lambda block: matrix(block).movedim(1, 0)).movedim(0, 1)

    def _in_windows(
        self, windows: Windows, rows: Tensor, matrix: LayerMatrix, combine: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Rows combined with every window's matrix; windows without a weight are left out."""
        gathered = windows.gather(rows)
        weighted = gathered.movedim(-3, 0).flatten(1).ne(0).any(-1)
        whole: Tensor | None = None
        for chosen, block in self._window_blocks(windows, weighted.nonzero().squeeze(-1)):
            product = combine(gathered.index_select(-3, chosen), matrix(block).to(gathered.dtype))
            if whole is None:
                whole = product.new_zeros(*product.shape[:-3], *gathered.shape[-3:])
            whole[..., chosen, :, :] = product
        return torch.zeros_like(rows) if whole is None else windows.scatter(whole)

    def _window_blocks(self, windows: Windows, chosen: Tensor | None) -> Iterator[tuple[Tensor, RowBlock]]:
        """Blocks of windows, with which windows they are."""
        call = self._call
        n_windows = len(call.output)
        bytes_per_window = self._call.output.shape[1] * windows.slots.shape[1] ** 2 * self._sizes().entry
        every = torch.arange(n_windows, device=windows.slots.device)
        # A product of its own has the values of all windows inside.
        can_cut = call.product is None
        step = max(1, self._max_chunk_bytes // bytes_per_window) if can_cut else n_windows
        for part in torch.split(every if chosen is None or not can_cut else chosen, step):
            whole = len(part) == n_windows
            some = call if whole else some_windows(call, part)
            probs = call_probabilities(some)
            is_real = windows.is_real[part % len(windows.slots)]
            gradients, through = (
                None if one is None else call_gradient(some, one if whole else one.index_select(0, part))
                for one in (self._output_gradient, self._output_share)
            )
            probs = probs * is_real[:, None, None, :].to(probs.dtype)
            yield part, RowBlock(probs, gradients, None, _relevance(probs, through))

    def _blocks(self) -> Iterator[RowBlock]:
        """All rows of all samples over all keys, some rows at a time."""
        return (block for _, block in self._parts(None, cut_samples=False))

    def _parts(
        self,
        rows: Tensor | slice | None,
        *,
        cut_samples: bool = True,
        averages_heads: bool = False,
        needs_all_keys: bool = False,
        is_lent: bool = False,
    ) -> Iterator[tuple[Part, RowBlock]]:
        """Blocks of the rows that are wanted, with which part of the layer they are."""
        call, sizes = self._call, self._sizes(rows)
        can_cut = cut_samples and can_be_cut(call)
        planned = extents(
            sizes,
            call.output.device,
            max_chunk_bytes=self._max_chunk_bytes,
            cut_samples=can_cut,
            cut_heads=can_cut and averages_heads and not differs_by_head(call),
        )
        # A product of its own gives its gradient for all rows at once, and the probabilities are there already.
        for extent in planned if call.product is None else [whole_extent(sizes)]:
            at_rows = rows_within(rows, extent.rows, sizes.queries)
            some = part_of_call(call, extent.samples, extent.heads) if can_cut else call
            through = [
                one[extent.samples, extent.heads] if can_cut and one is not None else one
                for one in (self._output_gradient, self._output_share)
            ]
            leaves_out = can_cut and not needs_all_keys
            keys = visible_keys(some, at_rows) if leaves_out and isinstance(at_rows, slice) else None
            lent = is_lent and can_cut and call.output.device.type == "cpu"
            shape = _shape(extent, sizes.keys if keys is None else keys.stop - keys.start) if lent else None
            gradients, shares = (
                None if one is None else call_gradient(some, one, at_rows, keys, out=self._memory(name, shape))
                for name, one in zip(("gradients", "shares"), through, strict=True)
            )
            probs = call_probabilities(some, at_rows, keys, out=self._memory("probs", shape))
            block = RowBlock(
                probs,
                gradients,
                self._own_keys(at_rows, keys),
                _relevance(probs, shares, out=shares if lent else None),
                samples=extent.samples if can_cut else EVERYTHING,
                keys=EVERYTHING if keys is None else keys,
                is_lent=lent,
            )
            yield Part(at_rows, (extent.heads.stop - extent.heads.start) / sizes.heads), block

    def _memory(self, name: str, shape: tuple[int, ...] | None) -> Tensor | None:
        if shape is None:
            return None
        return self._workspace.lend(name, shape, torch.promote_types(self._call.output.dtype, torch.float32))

    def _own_keys(self, rows: Tensor | slice | None, keys: slice | None) -> Tensor | None:
        if rows is None:
            return None
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=self._call.output.device)
        return rows if keys is None else rows - keys.start

    @property
    def _n_keys(self) -> int:
        if self._call.weights is not None:
            return self._call.weights.shape[-1]
        return self._operand(self._call.key).shape[-2]

    def _sizes(self, rows: Tensor | slice | None = None) -> Sizes:
        call = self._call
        tensor = self._operand(call.query if call.weights is None else call.weights)
        queries = tensor.shape[-2]
        if rows is not None:
            queries = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        # Three axes: samples and heads are folded into one.
        samples = len(tensor) if tensor.dim() == 4 else call.batch_size
        group = 1 if call.key is None or tensor.dim() != 4 else tensor.shape[1] // call.key.shape[1]
        return Sizes(
            samples=samples,
            heads=tensor.shape[:-2].numel() // samples,
            queries=queries,
            keys=self._n_keys,
            group=group,
            entry=max(tensor.element_size(), 4),
        )

    @staticmethod
    def _operand(tensor: Tensor | None) -> Tensor:
        if tensor is None:
            raise ValueError("An attention call holds either query, key and value, or weights.")
        return tensor


def layers_of(trace: AttentionTrace) -> list[AttentionLayer]:
    """The layers of a trace, from the input upwards.

    Args:
        trace: What the forward pass and the backward pass gave.

    Returns:
        One layer a call.
    """
    count = len(trace.calls)
    gradients = trace.output_gradients or (None,) * count
    shares = (trace.relevance.shares if trace.relevance else ()) or (None,) * count
    records = [LayerRecord(*fields) for fields in zip(trace.calls, gradients, shares, strict=True)]
    limit = MAX_CHUNK_BYTES if trace.max_chunk_bytes is None else trace.max_chunk_bytes
    workspace = Workspace()
    return [AttentionLayer(records, position, max_chunk_bytes=limit, workspace=workspace) for position in range(count)]


def _shape(extent: Extent, n_keys: int) -> tuple[int, int, int, int]:
    samples, heads, rows = (part.stop - part.start for part in (extent.samples, extent.heads, extent.rows))
    return samples, heads, rows, n_keys


def _relevance(probs: Tensor, through: Tensor | None, *, out: Tensor | None = None) -> Tensor | None:
    """Relevance of probabilities: half of what their product with the values carries, A ⊙ (R_O/O)·Vᵀ."""
    return None if through is None else torch.mul(probs, through, out=out).div_(2)


def from_the_top(layers: Sequence[AttentionLayer], start_layer: int = 0) -> list[AttentionLayer]:
    """Layers from the top down to ``start_layer``.

    Args:
        layers: Some of the model's layers, from the input upwards.
        start_layer: Lowest layer wanted, from 0.

    Returns:
        The layers; empty if all of them lie below ``start_layer``.

    Raises:
        ValueError: If the model has no such layer.
    """
    count = layers[0].n_layers
    if not 0 <= start_layer < count:
        raise ValueError(f"start_layer must be one of the {count} layers 0 to {count - 1}, not {start_layer}.")
    return [layer for layer in reversed(layers) if layer.position >= start_layer]


def to_the_input(layers: Sequence[AttentionLayer], rows: Float[Tensor, "... token"]) -> Float[Tensor, "... token"]:
    """Rows over the tokens of the last of some layers, as rows over the tokens of the input.

    Args:
        layers: Layers from the input upwards.
        rows: One value a token of the last of them.

    Returns:
        The rows themselves, unless tokens were merged on the way.
    """
    for layer in reversed(layers):
        rows = layer.below(rows)
    return rows
