"""One attention layer as methods use it: a matrix of N tokens by N tokens that is never formed whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrib_plugin.capture import call_gradient, call_probabilities
from attrib_plugin.records import AttentionCall, AttentionTrace

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MAX_CHUNK_BYTES = 32 * 2**20
"""Largest block of attention probabilities formed at a time, in bytes, over all samples and heads."""


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some query rows of one layer.

    Attributes:
        probs: Attention probabilities.
        gradients: Gradient of the explained score with respect to them; ``None`` without gradients.
        rows: Which queries these rows are; ``None`` for all.
    """

    probs: Float[Tensor, "batch head row token"]
    gradients: Float[Tensor, "batch head row token"] | None
    rows: Int[Tensor, " row"] | None

    @property
    def weighted(self) -> tuple[Tensor, Tensor]:
        """Probabilities and gradients, for methods that declare ``needs_gradients``."""
        if self.gradients is None:
            raise ValueError("This layer was read without gradients; the method must set needs_gradients.")
        return self.probs, self.gradients


LayerMatrix = Callable[[RowBlock], Tensor]
"""A method's formula: from some rows of attention to the same rows of its matrix, ``... batch row token``."""


class AttentionLayer:
    """A layer whose matrix is computed in blocks of query rows from what the call recorded.

    Args:
        call: The recorded call.
        output_gradient: Gradient of the explained score with respect to the call's output.
        position: Which layer of the model this is, from 0.
        n_layers: How many layers the model has.
    """

    def __init__(self, call: AttentionCall, output_gradient: Tensor | None, position: int, n_layers: int) -> None:
        self.position = position
        self.n_layers = n_layers
        self._call = call
        self._output_gradient = output_gradient

    def times(self, weights: Float[Tensor, "... token"], matrix: LayerMatrix) -> Float[Tensor, "... token"]:
        """Row vectors times the layer's matrix; only rows with a weight are computed.

        Args:
            weights: Weight of every query row, ``... batch vector token``.
            matrix: The method's formula.

        Returns:
            ``weights @ matrix``, of the shape that broadcasting gives.
        """
        weighted_rows = weights.reshape(-1, weights.shape[-1]).ne(0).any(0)
        rows = None if weighted_rows.all() else weighted_rows.nonzero().squeeze(-1)
        product: Tensor | float = 0.0
        for block in self._blocks(rows, weights):
            chosen = weights if block.rows is None else weights.index_select(-1, block.rows)
            product = product + chosen @ matrix(block).to(chosen.dtype)
        return product if isinstance(product, Tensor) else torch.zeros_like(weights)

    def matrix(self, matrix: LayerMatrix) -> Float[Tensor, "... token token"]:
        """The layer's whole matrix.

        Args:
            matrix: The method's formula.

        Returns:
            All rows; memory N x N for each sample.
        """
        blocks = [matrix(block) for block in self._blocks(None, self._call.output)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)

    def _blocks(self, rows: Tensor | None, like: Tensor) -> Iterator[RowBlock]:
        tokens, bytes_per_row = self._size()
        wanted = tokens if rows is None else len(rows)
        step = max(1, MAX_CHUNK_BYTES // bytes_per_row)
        if rows is None and wanted > step:
            rows = torch.arange(tokens, device=like.device)
        for part in [None] if rows is None else torch.split(rows, step):
            gradients = None
            if self._output_gradient is not None:
                gradients = call_gradient(self._call, self._output_gradient, part)
            yield RowBlock(call_probabilities(self._call, part), gradients, part)

    def _size(self) -> tuple[int, int]:
        call = self._call
        tensor = call.query if call.weights is None else call.weights
        if tensor is None:
            raise ValueError("An attention call holds either query, key and value, or weights.")
        tokens = tensor.shape[-2]
        return tokens, tensor.shape[:-2].numel() * tokens * max(tensor.element_size(), 4)


def layers_of(trace: AttentionTrace) -> list[AttentionLayer]:
    """The layers of a trace, from the input upwards.

    Args:
        trace: What the forward pass and the backward pass gave.

    Returns:
        One layer a call.
    """
    count = len(trace.calls)
    gradients = trace.output_gradients or (None,) * count
    return [AttentionLayer(call, gradients[i], i, count) for i, call in enumerate(trace.calls)]


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
