"""Attention rollout: attention traced through all layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from attrib_plugin.functional import HeadFusion, discard_lowest, fuse_heads, mix_residual
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.functional.rollout import ROW_NORMALIZATIONS, SPARES, RowNormalization, Spare
from attrib_plugin.methods.base import (
    AttentionAttribution,
    AttentionLayer,
    RowBlock,
    from_the_top,
    layers_of,
    to_the_input,
)
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout


class AttentionRollout(AttentionAttribution):
    """How much of each input token reaches the read-out token, if attention were all that mixes tokens.

    Class-agnostic: the map does not depend on the target. It treats values, MLPs and norms as if they kept every
    token's share, and cannot tell evidence for a class from evidence against it.

    Formula: ``Â_l = (1 - residual)·fuse_h(A_l) + residual·I``, rows normalised; relevance is the read-out row of
    ``Â_L ··· Â_start``.

    Units: share of the output token, between 0 and 1; sums to one over all tokens (prefix tokens included, which
    image maps leave out), if rows are normalised.

    ``layer_attention`` gives ``Â_l``, the residual-adjusted attention.

    Cost: one forward pass without gradients, and the attention probabilities once more. Memory: queries and keys of
    all layers, and one block of probabilities; with ``discard_ratio`` or ``"vit_explain"`` one N x N map.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        residual: Share of the residual path in every layer, between 0 and 1; the paper's is 0.5.
        head_fusion: ``"mean"`` (the paper's), ``"max"``, ``"min"`` or a callable that removes axis -3. Rows are
            normalised after mixing.
        discard_ratio: Share of the smallest entries of each fused map, among real tokens, that is set to zero before
            mixing; not in the paper.
        start_layer: First layer of the product, from 0.
        row_normalize: True divides each row of a mixed map by its sum; False does not; ``"vit_explain"`` divides column
            j by the sum of row j, as that code does by mistake.
        spare: What is not discarded though it is among the smallest: ``"nothing"``, ``"first_entry"`` (of the first
            token for itself) or ``"first_token"`` (its row and its column).
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If an option is impossible, or (when the model is run) ``start_layer`` is no layer or
            ``head_fusion`` unknown.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, equation 1.
    """

    takes_windows = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "abnar2020": Preset(
            options={"residual": 0.5, "head_fusion": "mean", "discard_ratio": 0.0, "start_layer": 0},
            paper="Abnar and Zuidema 2020, arXiv:2005.00928",
            repository="samiraabnar/attention_flow",
            note="Mean over heads, identity added and rows normalised, all layers. Without the identity: residual=0.",
        ),
        "chefer2021_vit": Preset(
            options={"start_layer": 1, "readout": "cls"},
            paper="Chefer, Gur and Wolf 2021a, arXiv:2012.09838",
            repository="hila-chefer/Transformer-Explainability",
            note="Its rollout baseline for images, from the second layer on as its evaluation scripts run it (the "
            "function's own default is start_layer=0); class token's row without the class token.",
        ),
        "chefer2021_bert": Preset(
            options={"start_layer": 0, "readout": "cls", "special": "zero_first"},
            paper="Chefer, Gur and Wolf 2021a, arXiv:2012.09838",
            repository="hila-chefer/Transformer-Explainability",
            note="Its rollout baseline for BERT: all layers, the class token's own entry set to zero, the last token's "
            "kept.",
        ),
        "vit_explain": Preset(
            options={
                "head_fusion": "max", "discard_ratio": 0.9, "spare": "first_entry", "row_normalize": "vit_explain",
                "readout": "cls", "divide_by": "max",
            },
            repository="jacobgil/vit-explain",
            note="As run from its command line: the smallest 0.9 of each fused map discarded, the class token's entry "
            "for itself spared; column j divided by the sum of row j; divided by the maximum. Its class takes the mean "
            "over heads.",
        ),
        "vit_explain_fixed": Preset(
            options={
                "head_fusion": "max", "discard_ratio": 0.9, "spare": "first_token", "row_normalize": True,
                "readout": "cls", "divide_by": "max",
            },
            repository="jacobgil/vit-explain",
            note="What its comments say: the class token's row and column spared, each row divided by its own sum.",
        ),
        "keras_probing_vits": Preset(
            options={"readout": "cls", "divide_by": "max"},
            paper="Abnar and Zuidema 2020, arXiv:2005.00928",
            repository="keras-team/keras-io (examples/vision/probing_vits.py)",
            note="Class token's row without prefix tokens (two in distilled models), divided by its maximum. The "
            "example then enlarges the map and multiplies the image by it.",
        ),
        "amsterdam_nlp": Preset(
            options={"start_layer": 0, "readout": "cls", "special": "zero_first"},
            paper="Abnar and Zuidema 2020, arXiv:2005.00928",
            repository="clclab/attention-rollout-demo",
            note="The rollout of the RoBERTa demo with its slider at 1: the first token's own entry set to zero. The "
            "demo shows every score one token too late; here scores stand at their own tokens.",
        ),
    }  # fmt: skip

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        residual: float = 0.5,
        head_fusion: HeadFusion = "mean",
        discard_ratio: float = 0.0,
        start_layer: int = 0,
        row_normalize: RowNormalization = True,
        spare: Spare = "nothing",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        if not 0.0 <= residual <= 1.0:
            raise ValueError(f"residual must be between 0 and 1, not {residual}.")
        if not 0.0 <= discard_ratio < 1.0:
            raise ValueError(f"discard_ratio must be at least 0 and below 1, not {discard_ratio}.")
        check_choice("row_normalize", row_normalize, ROW_NORMALIZATIONS)
        check_choice("spare", spare, SPARES)
        self.residual = residual
        self.head_fusion = head_fusion
        self.discard_ratio = discard_ratio
        self.start_layer = start_layer
        self.row_normalize: RowNormalization = row_normalize
        self.spare: Spare = spare

    def _fused(self, block: RowBlock) -> Tensor:
        return fuse_heads(block.probs, self.head_fusion)

    def _mixed(self, block: RowBlock) -> Tensor:
        fused = self._fused(block)
        return mix_residual(
            fused,
            self.residual,
            rows=block.rows,
            row_normalize=self.row_normalize,
            out=fused if block.is_lent else None,
        )

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        for layer in from_the_top(layers, self.start_layer):
            readout = layer.below(self._times(layer, readout, layout))
        return to_the_input(layers[: self.start_layer], readout)

    def _times(self, layer: AttentionLayer, weights: Tensor, layout: TokenLayout) -> Tensor:
        if self._needs_all_rows:
            return weights @ self._whole(layer, layout)
        return layer.times(
            weights,
            self._mixed,
            averages_heads=self.head_fusion == "mean",
            # A function of the user's may keep what it is given.
            keeps_nothing=isinstance(self.head_fusion, str),
        )

    @property
    def _needs_all_rows(self) -> bool:
        # Which entries are the smallest, and the sums by which columns are divided, are known only when all rows are.
        return self.discard_ratio > 0 or self.row_normalize == "vit_explain"

    def _whole(self, layer: AttentionLayer, layout: TokenLayout) -> Tensor:
        fused = layer.matrix(self._fused)
        if self.discard_ratio > 0:
            fused = discard_lowest(
                fused, self.discard_ratio, padding=layout.padding, pairs=layer.pairs, spare=self.spare
            )
        return mix_residual(fused, self.residual, row_normalize=self.row_normalize)

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        if self._needs_all_rows:
            return tuple(self._whole(layer, trace.layout) for layer in layers_of(trace))
        return tuple(layer.matrix(self._mixed) for layer in layers_of(trace))
