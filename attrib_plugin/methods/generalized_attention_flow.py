"""Generalized attention flow: one flow from all tokens through gradient-weighted attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attrib_plugin.errors import MissingDependencyError
from attrib_plugin.functional import generalized_attention_flow, gradient_weighted_attention
from attrib_plugin.functional.flow import EngineName
from attrib_plugin.methods.base import AttentionAttribution, AttentionLayer, RowBlock, layers_of
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout

_SIGNS: dict[str, tuple[Literal["positive", "negative"], ...]] = {
    "positive": ("positive",),
    "negative": ("negative",),
    "signed": ("positive", "negative"),
}


class GeneralizedAttentionFlow(AttentionAttribution):
    """What each input token sends in one maximum flow to the read-out, where evidence for a class limits the layers.

    Depends on the target, through capacities that are attention weighted with its gradient. There is no residual
    path: what flows passes through attention in every layer.

    Formula: capacities ``E_l = mean_h (±∂y/∂A_l ⊙ A_l)⁺``; a super-source feeds all input tokens, the read-out token is
    the sink; relevance is what leaves each input token in the maximum flow in which all use the same share of what
    their edges could carry, as far as the capacities allow (unique). Where the head reads several tokens, relevance is
    the mean of the flows to each, weighted as they are read.

    Units: those of the score, first order; for a class token they sum to the maximum flow. Sign: ``"positive"`` is
    evidence for the target (at least 0), ``"negative"`` is evidence against it (at least 0), ``"signed"`` is positive
    minus negative.

    ``layer_attention`` gives ``E_l``. ``layer_rows`` gives the flow to the read-out token after each layer.

    Cost: one forward and one backward pass, then flow on the CPU in float64: one problem a read-out token and
    two for each group of tokens that a bottleneck holds back together. Memory: capacities of all layers.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        capacity: ``"attention_gradient"`` (the paper's AGF), or ``"gradient"`` (GF), without the attention.
        engine: ``"scipy"``, ``"numba"`` or ``"auto"``; all give the same values.
        progress: Show a progress bar; ``None`` shows one after a second.
        **options: ``model``, ``readout``, ``grid`` and ``prefix_tokens``.

    Raises:
        ValueError: If ``sign``, ``capacity`` or ``engine`` is unknown.
        MissingDependencyError: If ``engine="numba"`` and numba is not installed (when flow is computed).

    Reference:
        Azarkhalili and Libbrecht 2025, arXiv:2502.15765; the fair choice among maximum flows and the sign are ours.
    """

    needs_gradients = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "azarkhalili2025_agf": Preset(
            options={"sign": "positive", "capacity": "attention_gradient"},
            paper="Azarkhalili and Libbrecht 2025, arXiv:2502.15765",
            note="The capacities and the network of the paper; among maximum flows, ours instead of a log barrier's.",
        )
    }
    _silence = "its gradient vanishes, all evidence has the other sign, or a layer passes none of it on."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        sign: Literal["positive", "negative", "signed"] = "positive",
        capacity: Literal["attention_gradient", "gradient"] = "attention_gradient",
        engine: EngineName = "auto",
        progress: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        if sign not in _SIGNS:
            raise ValueError(f"sign must be 'positive', 'negative' or 'signed', not {sign!r}.")
        if capacity not in ("attention_gradient", "gradient"):
            raise ValueError(f"capacity must be 'attention_gradient' or 'gradient', not {capacity!r}.")
        if engine not in ("auto", "scipy", "numba"):
            raise ValueError(f"engine must be 'auto', 'scipy' or 'numba', not {engine!r}.")
        self.sign = sign
        self.capacity = capacity
        self.engine: EngineName = engine
        self.progress = progress

    def _evidence(self, block: RowBlock) -> Tensor:
        """Evidence of each sign, (sign,B,R,N)."""
        probs, gradients = block.weighted
        if self.capacity == "gradient":
            # Entries that a mask hides have a gradient, but nothing can pass them.
            probs = probs.ne(0).to(probs.dtype)
        return torch.stack([gradient_weighted_attention(probs, gradients, sign=sign) for sign in _SIGNS[self.sign]])

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        capacities = torch.stack([layer.matrix(self._evidence) for layer in layers], dim=1)  # (sign, L, B, N, N)
        return self._net(torch.stack([self._flows(of_sign, readout) for of_sign in capacities]))

    def _net(self, by_sign: Tensor) -> Tensor:
        return by_sign[0] - by_sign[1] if self.sign == "signed" else by_sign[0]

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(self._net(layer.matrix(self._evidence)) for layer in layers_of(trace))

    def _flows(self, capacities: Tensor, readout: Tensor) -> Tensor:
        samples = []
        for sample, weights in enumerate(readout):
            (read,) = weights.ne(0).any(0).nonzero(as_tuple=True)
            try:
                flows = generalized_attention_flow(
                    capacities[:, sample : sample + 1], outputs=read, engine=self.engine, progress=self.progress
                )
            except ImportError as error:
                raise MissingDependencyError("numba", "flow") from error
            samples.append(weights[:, read] @ flows.to(weights.dtype))
        return torch.cat(samples)
