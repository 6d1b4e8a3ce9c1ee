"""GradCAM on the tokens of a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from attrib_plugin.capture import find_layer, tapped
from attrib_plugin.errors import AttributionError, UnsupportedAttentionError
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.functional.grad_cam import SIGNS, Sign, grad_cam
from attrib_plugin.methods.base import AttentionAttribution, Query, Tap, input_tokens, on_patches, tokens_at
from attrib_plugin.records import AttentionTrace, TokenActivation, TokenLayout


class TokenGradCam(AttentionAttribution):
    """Which patches or tokens the explained score rests on, by the channels of one layer weighted with their gradient.

    GradCAM as it is done for convolutions, with tokens for places. It looks at one layer and follows nothing; what
    reaches the score past that layer's patches is not seen.

    Formula: ``w_c = mean_t ∂y/∂a_tc`` over the patches t (or the real tokens of a text), relevance is
    ``(Σ_c w_c a_tc)⁺``. Prefix tokens and padding take no part in the mean.

    Units: those of the score, first order; there is no sum that it must reach. Sign: ``"positive"`` is evidence for
    the target (at least 0), ``"negative"`` evidence against it (at least 0), ``"signed"`` is both.

    The layer is by default what the last self-attention reads: the output of the norm before it, in a model that has
    one. Later layers are of no use where the head reads the class token alone: no gradient reaches the patches there,
    and the map is zero.

    In models with windows and stages (Swin) the layer's tokens are those of its stage; each gives its value to the
    patches that it was merged from, by their shares, so the sum stays. Where such a block normalises after attention
    (Swin v2), the gradient is that of what attention reads, without the residual path beside it.

    ``matrix``, ``layer_attention`` and ``layer_rows`` do not exist for this method, which has one layer and no
    matrix from token to token; the read-out plays no part.

    Cost: one forward pass with its graph, and a backward pass down to the layer. Memory: the forward pass with its
    graph, without what parameter gradients need.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``grid``, ``prefix_tokens``.
        layer: A module of the model or its dotted name, whose output is weighed; in a module that runs several times
            the last run counts. ``None`` is the input of the last self-attention.
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If ``sign`` is unknown.
        InputError: If the model has no such layer.
        UnsupportedAttentionError: If the layer does not give the tokens of the input (when the model is run).

    Reference:
        Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """

    needs_gradients = True
    has_matrix = False
    takes_windows = True
    _silence = (
        "no channel speaks for the target there, or no gradient reaches the layer's patches (a head that reads the "
        "class token alone reads none of them after the last attention)."
    )

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        layer: nn.Module | str | None = None,
        sign: Sign = "positive",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        check_choice("sign", sign, SIGNS)
        self.layer = layer
        self.sign = sign
        self._module = None if layer is None else find_layer(self.model, layer)

    @property
    def _tap(self) -> Tap:
        return partial(tapped, layer=self._module)

    def _query(self, *arguments: Any, **options: Any) -> Query:
        # What the head reads plays no part, so a model of which that is not known is explained all the same.
        if options.get("readout") is None and self.readout is None and self._member.readout is None:
            options["readout"] = "mean"
        return super()._query(*arguments, **options)

    def _relevance(self, trace: AttentionTrace) -> Tensor:
        layout = trace.layout
        if trace.activation is None:
            raise ValueError("The trace holds no activations.")
        if trace.calls[-1].placement is not None:
            return self._relevance_of_patches(trace, trace.activation)
        values, gradients = _tokens(trace.activation.values, layout), _tokens(trace.activation.gradient, layout)
        n_tokens, n_given = layout.readout.shape[-1], values.shape[1]
        counted = input_tokens(layout)[:, n_tokens - n_given :]
        relevance = grad_cam(values, gradients, counted=counted, sign=self.sign)
        relevance = nn.functional.pad(relevance, (n_tokens - n_given, 0))
        return relevance if layout.padding is None else relevance.masked_fill(layout.padding, 0)

    def _relevance_of_patches(self, trace: AttentionTrace, activation: TokenActivation) -> Tensor:
        """Where tokens are merged between stages: relevance of the layer's tokens, handed down to the patches."""
        n_samples, is_read = len(trace.layout.readout), self._module is None
        found = tokens_at(activation.values, trace.calls, n_samples, is_read=is_read)
        slopes = tokens_at(activation.gradient, trace.calls, n_samples, is_read=is_read)
        if found is None or slopes is None:
            raise _no_tokens(activation.values, f"the tokens of a stage of {n_samples} samples")
        (values, position), (gradients, _) = found, slopes
        relevance = grad_cam(_at_least_float32(values), _at_least_float32(gradients), sign=self.sign)
        return on_patches(relevance, trace.calls[: position + 1])

    def _refuse(self, trace: AttentionTrace) -> NoReturn:
        raise AttributionError(
            f"{type(self).__name__} weighs the channels of one layer and has no matrix from token to token. Call "
            "attribute(); for other layers give layer= in the constructor."
        )

    _matrix = _layer_matrices = _rows_by_layer = _refuse


def _tokens(tensor: Tensor, layout: TokenLayout) -> Tensor:
    """The layer's tokens (B,T,D), all of them or the patches alone, at least float32."""
    batch, n_tokens = layout.readout.shape
    if tensor.dim() == 4 and layout.grid == tuple(tensor.shape[-2:]):
        tensor = tensor.flatten(2).transpose(1, 2)  # (B, D, row, column) of a convolution
    allowed = {n_tokens, n_tokens - layout.prefix_tokens}
    if tensor.dim() != 3 or len(tensor) != batch or tensor.shape[1] not in allowed:
        raise _no_tokens(tensor, f"{n_tokens} tokens of {batch} samples")
    return _at_least_float32(tensor)


def _no_tokens(tensor: Tensor, expected: str) -> UnsupportedAttentionError:
    return UnsupportedAttentionError(
        f"Expected the layer to give {expected}, as (batch, token, dim), found {tuple(tensor.shape)}. Give layer= a "
        "module that all tokens pass through, such as the norm before an attention."
    )


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
