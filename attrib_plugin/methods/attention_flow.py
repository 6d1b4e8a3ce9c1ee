"""Attention flow: the most that can flow from a token to the read-out through the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from attrib_plugin.errors import MissingDependencyError
from attrib_plugin.functional import HeadFusion, attention_flow, attention_flow_by_layer, fuse_heads, mix_residual
from attrib_plugin.functional.flow import EngineName
from attrib_plugin.methods.base import AttentionAttribution, AttentionLayer, RowBlock, layers_of
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout


class AttentionFlow(AttentionAttribution):
    """The most that can flow from each input token to the read-out token, if attention limits what layers pass on.

    Class-agnostic: the map does not depend on the target. With about eight or more layers that look both ways it is
    the column sum of the first layer, capped, and with little mixing a row of the first layer plus a constant; it says
    little about deeper layers. See the method's page.

    Formula: the maximum flow through the layered graph in which token j below layer l and token i above it are joined
    with capacity ``((1 - residual)·fuse_h(A_l) + residual·I)_ij``, rows normalised. Where the head reads several
    tokens, relevance is the mean of their flows, weighted as they are read.

    Units: capacity, between 0 and 1 for a class token; values do not sum to one unless ``normalize`` is set. Every
    value is exact and certified by a cut.

    ``layer_attention`` gives the capacities. ``layer_rows`` gives the flow to the read-out token after each layer.

    Cost: one forward pass without gradients, then flow on the CPU in float64, sample by sample: for 197 tokens and 12
    layers tens of milliseconds with numba (extra ``flow``), about a second without; more where attention is peaky.
    Memory: capacities of all layers (layers, samples, N, N), and three float64 copies of one sample's.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        residual: Share of the residual path in every layer, between 0 and 1; the paper's is 0.5.
        normalize: Divide the flows to each output token by their sum, as the authors' code does.
        head_fusion: ``"mean"`` (the paper's), ``"max"``, ``"min"`` or a callable that removes axis -3.
        engine: ``"scipy"``, ``"numba"`` or ``"auto"``; all give the same values.
        progress: Show a progress bar; ``None`` shows one after a second.
        **options: ``model``, ``readout``, ``grid`` and ``prefix_tokens``.

    Raises:
        ValueError: If ``residual`` or ``engine`` is impossible.
        MissingDependencyError: If ``engine="numba"`` and numba is not installed (when flow is computed).

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, section 3.
    """

    presets: ClassVar[Mapping[str, Preset]] = {
        "abnar2020": Preset(
            options={"residual": 0.5, "normalize": True, "head_fusion": "mean"},
            paper="Abnar and Zuidema 2020, arXiv:2005.00928",
            repository="samiraabnar/attention_flow",
            note="Mean over heads, identity added and rows normalised; flows to a token divided by their sum.",
        )
    }

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        residual: float = 0.5,
        normalize: bool = False,
        head_fusion: HeadFusion = "mean",
        engine: EngineName = "auto",
        progress: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        if not 0.0 <= residual <= 1.0:
            raise ValueError(f"residual must be between 0 and 1, not {residual}.")
        if engine not in ("auto", "scipy", "numba"):
            raise ValueError(f"engine must be 'auto', 'scipy' or 'numba', not {engine!r}.")
        self.residual = residual
        self.normalize = normalize
        self.head_fusion = head_fusion
        self.engine: EngineName = engine
        self.progress = progress

    def _mixed(self, block: RowBlock) -> Tensor:
        return mix_residual(fuse_heads(block.probs, self.head_fusion), self.residual, rows=block.rows)

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        return self._flows(attention_flow, layers, readout)

    def _rows_by_layer(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        rows = self._flows(attention_flow_by_layer, layers_of(trace), trace.layout.readout[:, None])
        return tuple(rows.squeeze(-2))

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(layer.matrix(self._mixed) for layer in layers_of(trace))

    def _flows(self, flow: Callable[..., Tensor], layers: Sequence[AttentionLayer], readout: Tensor) -> Tensor:
        """Flow of every sample to the tokens that it reads, weighted as they are read, ``... batch vector token``."""
        capacities = torch.stack([layer.matrix(self._mixed) for layer in layers])
        samples = []
        for sample, weights in enumerate(readout):
            (read,) = weights.ne(0).any(0).nonzero(as_tuple=True)
            try:
                flows = flow(
                    capacities[:, sample : sample + 1], residual=None, outputs=read, normalize=self.normalize,
                    engine=self.engine, progress=self.progress,
                )  # fmt: skip
            except ImportError as error:
                raise MissingDependencyError("numba", "flow") from error
            samples.append(weights[:, read] @ flows.to(weights.dtype))
        return torch.cat(samples, dim=-3)
