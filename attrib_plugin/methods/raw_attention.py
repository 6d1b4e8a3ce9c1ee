"""Raw attention: what the read-out token attends to in one layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.functional import HeadFusion, fuse_heads
from attrib_plugin.methods.base import AttentionAttribution, AttentionLayer, RowBlock, layers_of, to_the_input
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout


class RawAttention(AttentionAttribution):
    """The read-out row of one layer's attention, or the mean over layers.

    Class-agnostic: the map does not depend on the target. It says where one layer looks, not what reaches the
    output; upper layers attend to tokens that have long been mixed with others.

    Formula: ``fuse_h(A_l)[readout]``.

    Units: probability, between 0 and 1; over all tokens (prefix tokens included, which image maps leave out) it
    sums to one for ``head_fusion="mean"`` or a single head.

    ``layer_attention`` gives every layer's fused map, ``layer_rows`` every layer's read-out row.

    Cost: one forward pass without gradients; the row alone is recomputed from queries and keys.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        layer: Which layer, from 0, or from -1 backwards; ``None`` is the mean over all layers.
        head: One head instead of fused heads.
        head_fusion: ``"mean"``, ``"max"``, ``"min"`` or a callable that removes axis -3.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        InputError: If the model has no such layer or head (when it is run).

    Reference:
        Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """

    takes_windows = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "chefer2021_vit": Preset(
            options={"layer": -1, "head_fusion": "mean", "readout": "cls"},
            paper="Chefer, Gur and Wolf 2021a, arXiv:2012.09838",
            repository="hila-chefer/Transformer-Explainability",
            note="Its raw attention baseline for images: last layer, mean over heads, class token's row without the "
            "class token.",
        ),
        "chefer2021_bert": Preset(
            options={"layer": -1, "head_fusion": "mean", "readout": "cls", "special": "zero_first"},
            paper="Chefer, Gur and Wolf 2021a, arXiv:2012.09838",
            repository="hila-chefer/Transformer-Explainability",
            note="Its raw attention baseline for BERT: as for images, but the class token's own entry is set to zero "
            "and the last token's is kept.",
        ),
    }

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        layer: int | None = -1,
        head: int | None = None,
        head_fusion: HeadFusion = "mean",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        self.layer = layer
        self.head = head
        self.head_fusion = head_fusion

    def _fused(self, block: RowBlock) -> Tensor:
        if self.head is None:
            return fuse_heads(block.probs, self.head_fusion)
        n_heads = block.probs.shape[1]
        if not -n_heads <= self.head < n_heads:
            raise InputError(f"head must be one of the {n_heads} heads 0 to {n_heads - 1}, not {self.head}.")
        return block.probs[:, self.head]

    @property
    def _averages_heads(self) -> bool:
        return self.head is None and self.head_fusion == "mean"

    def _times(self, layer: AttentionLayer, weights: Tensor) -> Tensor:
        # A function of the user's may keep what it is given.
        keeps_nothing = isinstance(self.head_fusion, str)
        return layer.times(weights, self._fused, averages_heads=self._averages_heads, keeps_nothing=keeps_nothing)

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        if self.layer is not None:
            if not -len(layers) <= self.layer < len(layers):
                raise InputError(
                    f"layer must be one of the {len(layers)} layers 0 to {len(layers) - 1}, not {self.layer}."
                )
        wanted = range(len(layers)) if self.layer is None else [self.layer % len(layers)]
        total = torch.zeros_like(readout)
        for position, layer in reversed(list(enumerate(layers))):
            if position in wanted:
                total = total + self._times(layer, readout)
            total, readout = layer.below(total), layer.below(readout)
        return total / len(wanted)

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(layer.matrix(self._fused) for layer in layers_of(trace))

    def _rows_by_layer(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        layers, readout, rows = layers_of(trace), trace.layout.readout[:, None], list[Tensor]()
        for layer in reversed(layers):
            row = self._times(layer, readout)
            rows.append(to_the_input(layers[: layer.position + 1], row).squeeze(1))
            readout = layer.below(readout)
        return tuple(reversed(rows))
