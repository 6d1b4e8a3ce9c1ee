"""GradCAM whose channels are the heads of an attention layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.functional.grad_cam import SIGNS, Sign, attention_grad_cam, masked_mean, min_max
from attrib_plugin.methods.base import AttentionAttribution, AttentionLayer, RowBlock, input_tokens, layers_of
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout


class AttentionGradCam(AttentionAttribution):
    """What the read-out token attends to in one layer, each head weighted by how much its attention helps the score.

    GradCAM with heads for channels and attended tokens for places. Two published baselines go by this name and
    differ; both are presets. It looks at one layer and follows nothing below it.

    Formula, for every query row i: ``w_hi = mean_j ∂y/∂A_h[i,j]`` over the patches j (or the real tokens of a text) and
    ``M[i] = (mean_h w_hi·A_h[i])⁺``; relevance is the read-out row of M. The head of a model that reads one token has
    that token's row alone, as in GradCAM; one that reads several has the same mean of rows.

    Units: those of the score, first order, with no sum that it must reach; from 0 to 1 with ``stretch``. Sign:
    ``"positive"`` is evidence for the target (at least 0), ``"negative"`` evidence against it (at least 0),
    ``"signed"`` is both. Where no head speaks for the target the map is zero, with a ``NumericsWarning``; the authors'
    code divides zero by zero there.

    ``layer_attention`` gives M of every layer, before any scaling, ``layer_rows`` every layer's read-out row.

    Cost: one forward and one backward pass down to the first attention. Memory: that of the passes without parameter
    gradients, and one block of probabilities; with ``weights="matrix"`` or ``stretch="matrix"`` one N x N map.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        layer: Which layer, from 0, or from -1 backwards.
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        weights: Over what the gradient of a head is averaged: ``"row"``, as above, or ``"matrix"``, all rows and
            all tokens, prefix and padding too.
        stretch: Subtract the smallest value and divide by the largest, over the ``"row"`` (prefix and padding become
            zero), over all N x N entries of the ``"matrix"``, or ``"none"``.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If ``sign``, ``weights`` or ``stretch`` is unknown.
        InputError: If the model has no such layer (when it is run).

    Reference:
        Selvaraju et al. 2017, arXiv:1610.02391; on attention: Chefer, Gur and Wolf 2021a, arXiv:2012.09838, section 4.
    """

    needs_gradients = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "chefer2021_vit": Preset(
            options={"weights": "row", "stretch": "row"},
            paper="Chefer, Gur and Wolf 2021a, arXiv:2012.09838",
            repository="hila-chefer/Transformer-Explainability",
            note="Heads weighted by the mean over the class token's row of patches; scaled to 0..1 over the patches.",
        ),
        "chefer2021_bert": Preset(
            options={"weights": "matrix", "stretch": "matrix", "special": "zero_first"},
            paper="Chefer, Gur and Wolf 2021a, arXiv:2012.09838",
            repository="hila-chefer/Transformer-Explainability",
            note="Heads weighted by the mean over all N x N entries, padding included; scaled to 0..1 over all of "
            "them; the class token's own entry set to zero.",
        ),
    }
    _silence = "no head of the layer speaks for the target, or its gradient vanishes."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        layer: int = -1,
        sign: Sign = "positive",
        weights: Literal["row", "matrix"] = "row",
        stretch: Literal["row", "matrix", "none"] = "none",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        check_choice("sign", sign, SIGNS)
        check_choice("weights", weights, ("row", "matrix"))
        check_choice("stretch", stretch, ("row", "matrix", "none"))
        self.layer = layer
        self.sign = sign
        self.weights = weights
        self.stretch = stretch

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        if not -len(layers) <= self.layer < len(layers):
            raise InputError(f"layer must be one of the {len(layers)} layers 0 to {len(layers) - 1}, not {self.layer}.")
        return self._row_of(layers[self.layer], readout, layout)

    def _row_of(self, layer: AttentionLayer, readout: Tensor, layout: TokenLayout) -> Tensor:
        cam = self._cam(layer, layout)
        if self.stretch == "matrix":
            return readout @ min_max(layer.matrix(cam), (-2, -1))
        row = layer.times(readout, cam, needs_all_keys=self.weights == "row")
        return min_max(row, counted=input_tokens(layout)[:, None]) if self.stretch == "row" else row

    def _cam(self, layer: AttentionLayer, layout: TokenLayout) -> Callable[[RowBlock], Tensor]:
        """The formula from some rows of the layer to the same rows of M."""
        if self.weights == "matrix":
            by_row = layer.matrix(lambda block: block.weighted[1].mean(-1, keepdim=True))  # (B, H, N, 1)
            of_all = by_row.mean(-2, keepdim=True)
            return lambda block: attention_grad_cam(block.probs, of_all[block.samples], sign=self.sign)
        counted = input_tokens(layout)[:, None, None]  # (B, 1, 1, N)

        def cam(block: RowBlock) -> Tensor:
            probs, gradients = block.weighted
            return attention_grad_cam(probs, masked_mean(gradients, counted[block.samples])[..., None], sign=self.sign)

        return cam

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(layer.matrix(self._cam(layer, trace.layout)) for layer in layers_of(trace))

    def _rows_by_layer(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        readout = trace.layout.readout[:, None]
        return tuple(self._row_of(layer, readout, trace.layout).squeeze(1) for layer in layers_of(trace))
