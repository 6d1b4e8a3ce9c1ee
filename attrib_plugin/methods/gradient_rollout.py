"""Gradient-weighted rollout: attention that counts for, or against, the explained output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attrib_plugin.functional import gradient_weighted_attention, row_normalized_gain
from attrib_plugin.methods.base import AttentionAttribution, AttentionLayer, RowBlock, from_the_top, layers_of
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout

_SIGNS: dict[str, tuple[Literal["positive", "negative"], ...]] = {
    "positive": ("positive",),
    "negative": ("negative",),
    "signed": ("positive", "negative"),
}


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
    Memory: that of the passes without parameter gradients, and one block of probabilities.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        start_layer: First layer of the recursion, from 0.
        row_normalize: Normalise the rows of ``I + E_l``, as the authors' BERT code does.
        include_identity: Keep the read-out's own start in the row, as the authors' notebooks do.
        **options: ``model``, ``readout``, ``grid`` and ``prefix_tokens``.

    Raises:
        ValueError: If ``sign`` is unknown.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 5 and 6.
    """

    needs_gradients = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "chefer2021_generic": Preset(
            options={"sign": "positive", "start_layer": 0, "row_normalize": False, "include_identity": True},
            paper="Chefer, Gur and Wolf 2021b, arXiv:2103.15679",
            repository="hila-chefer/Transformer-MM-Explainability",
            note="Clamped before the mean over heads, no row normalisation, identity kept in the row.",
        )
    }
    _silence = "its gradient vanishes, or all evidence has the other sign."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        sign: Literal["positive", "negative", "signed"] = "positive",
        start_layer: int = 0,
        row_normalize: bool = False,
        include_identity: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        if sign not in _SIGNS:
            raise ValueError(f"sign must be 'positive', 'negative' or 'signed', not {sign!r}.")
        self.sign = sign
        self.start_layer = start_layer
        self.row_normalize = row_normalize
        self.include_identity = include_identity

    def _evidence(self, block: RowBlock) -> Tensor:
        """Evidence of each sign, (sign,B,R,N)."""
        return torch.stack([gradient_weighted_attention(*block.weighted, sign=sign) for sign in _SIGNS[self.sign]])

    def _gain(self, block: RowBlock) -> Tensor:
        evidence = self._evidence(block)
        return row_normalized_gain(evidence, rows=block.rows) if self.row_normalize else evidence

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        gained = readout.new_zeros(len(_SIGNS[self.sign]), *readout.shape)
        for layer in from_the_top(layers, self.start_layer):
            # The start is carried beside the gain: added to it, small relevance would drown in the one.
            gained = gained + layer.times(readout + gained, self._gain)
        return self._net(gained) + readout if self.include_identity and self.sign != "signed" else self._net(gained)

    def _net(self, by_sign: Tensor) -> Tensor:
        return by_sign[0] - by_sign[1] if self.sign == "signed" else by_sign[0]

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(self._net(layer.matrix(self._evidence)) for layer in layers_of(trace))

    def _matrix(self, trace: AttentionTrace) -> Tensor:
        gained = super()._matrix(trace)
        if self.include_identity or self.sign == "signed":
            return gained
        return gained + torch.eye(gained.shape[-1], dtype=gained.dtype, device=gained.device)
