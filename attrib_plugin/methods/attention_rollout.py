"""Attention rollout: attention traced through all layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from attrib_plugin.functional import HeadFusion, discard_lowest, fuse_heads, mix_residual
from attrib_plugin.methods.base import AttentionAttribution, AttentionLayer, RowBlock, from_the_top, layers_of
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout


class AttentionRollout(AttentionAttribution):
    """How much of each input token reaches the read-out token, if attention were all that mixes tokens.

    Class-agnostic: the map does not depend on the target. It treats values, MLPs and norms as if they kept every
    token's share, and cannot tell evidence for a class from evidence against it.

    Formula: ``Â_l = (1 - residual)·fuse_h(A_l) + residual·I``, rows normalised; relevance is the read-out row of
    ``Â_L ··· Â_start``.

    Units: share of the output token, between 0 and 1; sums to one over all tokens (prefix tokens included, which
    image maps leave out).

    ``layer_attention`` gives ``Â_l``, the residual-adjusted attention.

    Cost: one forward pass without gradients, and the attention probabilities once more. Memory: queries and keys of
    all layers, and one block of probabilities; with ``discard_ratio`` one N x N map.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        residual: Share of the residual path in every layer, between 0 and 1; the paper's is 0.5.
        head_fusion: ``"mean"`` (the paper's), ``"max"``, ``"min"`` or a callable that removes axis -3. Rows are
            normalised after mixing.
        discard_ratio: Share of the smallest entries of each fused map, among real tokens, that is set to zero before
            mixing; not in the paper.
        start_layer: First layer of the product, from 0.
        **options: ``model``, ``readout``, ``grid`` and ``prefix_tokens``.

    Raises:
        ValueError: If ``residual``, ``discard_ratio`` or ``head_fusion`` is impossible, or (when the model is run)
            ``start_layer`` is no layer.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, equation 1.
    """

    presets: ClassVar[Mapping[str, Preset]] = {
        "abnar2020": Preset(
            options={"residual": 0.5, "head_fusion": "mean", "discard_ratio": 0.0, "start_layer": 0},
            paper="Abnar and Zuidema 2020, arXiv:2005.00928",
            repository="samiraabnar/attention_flow",
            note="Mean over heads, identity added and rows normalised, all layers.",
        )
    }

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        residual: float = 0.5,
        head_fusion: HeadFusion = "mean",
        discard_ratio: float = 0.0,
        start_layer: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        if not 0.0 <= residual <= 1.0:
            raise ValueError(f"residual must be between 0 and 1, not {residual}.")
        if not 0.0 <= discard_ratio < 1.0:
            raise ValueError(f"discard_ratio must be at least 0 and below 1, not {discard_ratio}.")
        self.residual = residual
        self.head_fusion = head_fusion
        self.discard_ratio = discard_ratio
        self.start_layer = start_layer

    def _fused(self, block: RowBlock) -> Tensor:
        return fuse_heads(block.probs, self.head_fusion)

    def _mixed(self, block: RowBlock) -> Tensor:
        return mix_residual(self._fused(block), self.residual, rows=block.rows)

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        for layer in from_the_top(layers, self.start_layer):
            thinned = self.discard_ratio > 0
            readout = readout @ self._thinned(layer, layout) if thinned else layer.times(readout, self._mixed)
        return readout

    def _thinned(self, layer: AttentionLayer, layout: TokenLayout) -> Tensor:
        # Which entries are the smallest is known only when all rows are.
        fused = discard_lowest(layer.matrix(self._fused), self.discard_ratio, padding=layout.padding)
        return mix_residual(fused, self.residual)

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        if self.discard_ratio > 0:
            return tuple(self._thinned(layer, trace.layout) for layer in layers_of(trace))
        return tuple(layer.matrix(self._mixed) for layer in layers_of(trace))
