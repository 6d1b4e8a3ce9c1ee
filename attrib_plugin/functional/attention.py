"""Attention probabilities, and the gradient of a score with respect to them, for any subset of queries.

Fused attention never forms the probabilities A; they are recomputed from queries and keys. Their gradient
needs no graph either: with O = A·V it is ∂y/∂A = (∂y/∂O)·Vᵀ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def attention_probabilities(
    query: Float[Tensor, "batch head query dim"],
    key: Float[Tensor, "batch key_head key dim"],
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    rows: Int[Tensor, " row"] | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Probabilities softmax(scale · query · keyᵀ + mask), as ``scaled_dot_product_attention`` defines them.

    Half-precision inputs are computed in float32.

    Args:
        query: Queries.
        key: Keys; with fewer heads than ``query`` each key head serves a group of query heads.
        mask: Boolean (True = attend) or additive, broadcastable to ``batch head query key``.
        is_causal: Query i attends to keys 0..i only.
        scale: Factor on the products; ``None`` is 1/sqrt(dim).
        rows: Indices of the queries wanted; ``None`` is all of them.

    Returns:
        Probabilities; every row sums to one, or is zero where every key is masked.
    """
    n_queries = query.shape[-2]
    if rows is not None:
        query = query.index_select(-2, rows)
    query, key = _at_least_float32(query), _at_least_float32(key)
    key = _repeat_heads(key, query.shape[-3])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-1, -2)  # (B, H, R, K)
    has_masked_rows = False
    if is_causal:
        positions = torch.arange(n_queries, device=query.device) if rows is None else rows
        keys = torch.arange(key.shape[-2], device=query.device)
        scores = scores.masked_fill(keys > positions[:, None], -torch.inf)
    if mask is not None:
        mask = _mask_rows(mask, rows)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
        has_masked_rows = True
    probabilities = scores.softmax(-1)
    # A row without any key would be NaN; the fused kernels define its output as zero.
    return probabilities.nan_to_num(nan=0.0) if has_masked_rows else probabilities


def attention_gradient(
    output_gradient: Float[Tensor, "batch head query value_dim"],
    value: Float[Tensor, "batch key_head key value_dim"],
    *,
    rows: Int[Tensor, " row"] | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Gradient with respect to the probabilities, ∂y/∂A = (∂y/∂O)·Vᵀ.

    Exact for O = A·V and free of any graph. Half-precision inputs are computed in float32.

    Args:
        output_gradient: Gradient of the explained score with respect to the attention output O.
        value: Values; with fewer heads than ``output_gradient`` each serves a group of heads.
        rows: Indices of the queries wanted; ``None`` is all of them.

    Returns:
        Gradient, in units of the score per unit of probability; signed.
    """
    if rows is not None:
        output_gradient = output_gradient.index_select(-2, rows)
    output_gradient, value = _at_least_float32(output_gradient), _at_least_float32(value)
    return output_gradient @ _repeat_heads(value, output_gradient.shape[-3]).transpose(-1, -2)


def _mask_rows(mask: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None or mask.shape[-2] == 1:
        return mask
    return mask.index_select(-2, rows)


def _repeat_heads(tensor: Tensor, n_heads: int) -> Tensor:
    if tensor.shape[-3] in (1, n_heads):
        return tensor
    return tensor.repeat_interleave(n_heads // tensor.shape[-3], dim=-3)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
