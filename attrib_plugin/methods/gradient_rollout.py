"""Gradient-weighted rollout: attention that counts for, or against, the explained output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.functional import discard_lowest, row_normalized_gain, score_gradients
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.functional.rollout import ROW_NORMALIZATIONS, RowNormalization
from attrib_plugin.functional.weighted_rollout import CLAMPS, Clamp
from attrib_plugin.methods.base import (
    SIGNS,
    AttentionAttribution,
    AttentionLayer,
    RowBlock,
    Sign,
    evidence_by_sign,
    from_the_top,
    layers_of,
    net_evidence,
    to_the_input,
    weighted_by_sign,
)
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout


class GradientRollout(AttentionAttribution):
    """Which tokens the explained score rests on, by attention weighted with its gradient.

    The generic rule of Chefer et al.: depends on the target, needs no rules for other operations, and follows
    self-attention only. Relevance that passes through MLPs is not redistributed.

    Formula: ``E_l = mean_h (±∂y/∂A_l ⊙ A_l)⁺`` and ``R ← R + E_l·R`` from ``R = I``; relevance is the read-out row of R
    minus the read-out's own start, computed as a row recursion from the top layer down. The papers use the
    positive part only; the negative part is the same rule for ``-y``.

    Units: those of the score, first order; there is no sum that it must reach. Sign: ``"positive"`` is evidence
    for the target (at least 0), ``"negative"`` is evidence against it (at least 0), ``"signed"`` is positive minus
    negative.

    ``layer_attention`` gives ``E_l`` without the identity; ``matrix`` includes it (for ``"signed"`` it cancels).

    Cost: one forward and one backward pass down to the first attention, and the attention probabilities once more.
    Memory: that of the passes without parameter gradients, and one block of probabilities; with ``discard_ratio`` one
    N x N map, with ``"vit_explain"`` as ``gradients`` one for each head.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        start_layer: First layer of the recursion, from 0.
        row_normalize: True divides each row of ``I + E_l`` by its sum, as the authors' BERT code does;
            ``"vit_explain"`` divides column j by the sum of row j, as that code does by mistake.
        include_identity: Keep the read-out's own start in the row, as the authors' notebooks do.
        clamp: What drops its other sign: each of the ``"heads"`` (the paper), or their ``"mean"``.
        discard_ratio: Share of the smallest entries of each ``E_l``, among real tokens, that is set to zero; not in the
            paper.
        gradients: ``"attention"`` weighs attention with its own gradient. ``"vit_explain"`` pairs it as that code does
            by mistake: layer l from the bottom with layer l from the top, whose gradient is with respect to the scores
            before the softmax.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If an option is impossible, or (when the model is run) ``start_layer`` is no layer.
        UnsupportedAttentionError: If ``gradients="vit_explain"`` pairs layers of different sizes.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 5 and 6.
    """

    needs_gradients = True
    takes_windows = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "chefer2021_generic": Preset(
            options={"sign": "positive", "start_layer": 0, "row_normalize": False, "include_identity": True},
            paper="Chefer, Gur and Wolf 2021b, arXiv:2103.15679",
            repository="hila-chefer/Transformer-MM-Explainability",
            note="Clamped before the mean over heads, no row normalisation, identity kept in the row.",
        ),
        "vit_explain": Preset(
            options={
                "clamp": "mean", "discard_ratio": 0.9, "gradients": "vit_explain", "row_normalize": "vit_explain",
                "include_identity": True, "readout": "cls", "divide_by": "max",
            },
            repository="jacobgil/vit-explain",
            note="As run: mean over heads before clamping; gradients of the scores, of the layers in reverse order; "
            "the smallest 0.9 discarded, none spared; column j divided by the sum of row j; divided by the maximum.",
        ),
        "vit_explain_fixed": Preset(
            options={
                "clamp": "mean", "discard_ratio": 0.9, "gradients": "attention", "row_normalize": "vit_explain",
                "include_identity": True, "readout": "cls", "divide_by": "max",
            },
            repository="jacobgil/vit-explain",
            note="The same function given what its text describes: each layer's attention with its own gradient. "
            "Columns are still divided by sums of rows; row_normalize=True puts that right too.",
        ),
        "amsterdam_nlp": Preset(
            options={"start_layer": 8, "include_identity": True, "readout": "cls", "special": "zero_ends"},
            paper="Chefer, Gur and Wolf 2021b, arXiv:2103.15679",
            repository="clclab/attention-rollout-demo",
            note="The gradient rollout of the RoBERTa demo with its slider at 8, counted from 0 here (and from 1 in "
            "its rollout): the upper four of twelve layers. The demo leaves out the first and last token, which are "
            "zero here; it shows class 0 with its sign turned.",
        ),
    }  # fmt: skip
    _silence = "its gradient vanishes, or all evidence has the other sign."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        sign: Sign = "positive",
        start_layer: int = 0,
        row_normalize: RowNormalization = False,
        include_identity: bool = False,
        clamp: Clamp = "heads",
        discard_ratio: float = 0.0,
        gradients: Literal["attention", "vit_explain"] = "attention",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        check_choice("sign", sign, tuple(SIGNS))
        check_choice("row_normalize", row_normalize, ROW_NORMALIZATIONS)
        check_choice("clamp", clamp, CLAMPS)
        check_choice("gradients", gradients, ("attention", "vit_explain"))
        if not 0.0 <= discard_ratio < 1.0:
            raise ValueError(f"discard_ratio must be at least 0 and below 1, not {discard_ratio}.")
        self.sign = sign
        self.start_layer = start_layer
        self.row_normalize: RowNormalization = row_normalize
        self.include_identity = include_identity
        self.clamp: Clamp = clamp
        self.discard_ratio = discard_ratio
        self.gradients = gradients

    def _evidence(self, block: RowBlock) -> Tensor:
        return evidence_by_sign(block, self.sign, clamp=self.clamp)

    def _gain(self, block: RowBlock) -> Tensor:
        evidence = self._evidence(block)
        return row_normalized_gain(evidence, rows=block.rows) if self.row_normalize else evidence

    @property
    def _needs_all_rows(self) -> bool:
        return self.discard_ratio > 0 or "vit_explain" in (self.row_normalize, self.gradients)

    def _whole(self, layer: AttentionLayer, layout: TokenLayout) -> Tensor:
        """All rows of the evidence of each sign, (sign,B,N,N)."""
        evidence = layer.matrix(self._evidence) if self.gradients == "attention" else self._mispaired(layer)
        if self.discard_ratio > 0:
            evidence = torch.stack(
                [discard_lowest(one, self.discard_ratio, padding=layout.padding, pairs=layer.pairs) for one in evidence]
            )
        return evidence

    def _mispaired(self, layer: AttentionLayer) -> Tensor:
        probs = layer.by_head(lambda block: block.probs)
        gradients = layer.mirrored.by_head(lambda block: score_gradients(*block.weighted))
        if probs.shape != gradients.shape:
            raise UnsupportedAttentionError(
                f"gradients='vit_explain' pairs layers from both ends, which need attention of one shape; found "
                f"{tuple(probs.shape)} and {tuple(gradients.shape)}. Use gradients='attention'."
            )
        return weighted_by_sign(probs, gradients, self.sign, clamp=self.clamp)

    def _times(self, layer: AttentionLayer, weights: Tensor, layout: TokenLayout) -> Tensor:
        if not self._needs_all_rows:
            separate = self.clamp == "heads" and not self.row_normalize
            return layer.times(weights, self._gain, averages_heads=separate, keeps_nothing=True)
        evidence = self._whole(layer, layout)
        normalize = self.row_normalize
        return weights @ (row_normalized_gain(evidence, row_normalize=normalize) if normalize else evidence)

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        gained = readout.new_zeros(len(SIGNS[self.sign]), *readout.shape)
        for layer in from_the_top(layers, self.start_layer):
            # The start is carried beside the gain: added to it, small relevance would drown in the one.
            gained = layer.below(gained + self._times(layer, readout + gained, layout))
            readout = layer.below(readout)
        gained, readout = (to_the_input(layers[: self.start_layer], rows) for rows in (gained, readout))
        return self._net(gained) + readout if self.include_identity and self.sign != "signed" else self._net(gained)

    def _net(self, by_sign: Tensor) -> Tensor:
        return net_evidence(by_sign, self.sign)

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        if self._needs_all_rows:
            return tuple(self._net(self._whole(layer, trace.layout)) for layer in layers_of(trace))
        return tuple(self._net(layer.matrix(self._evidence)) for layer in layers_of(trace))

    def _matrix(self, trace: AttentionTrace) -> Tensor:
        gained = super()._matrix(trace)
        if self.include_identity or self.sign == "signed":
            return gained
        identity = torch.eye(gained.shape[-2], dtype=gained.dtype, device=gained.device)
        return gained + to_the_input(layers_of(trace), identity)
