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
    rows: Int[Tensor, " row"] | slice | None = None,
    keys: slice | None = None,
    out: Tensor | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Probabilities softmax(scale · query · keyᵀ + mask), as ``scaled_dot_product_attention`` defines them.

    Half-precision inputs are computed in float32.

    Args:
        query: Queries.
        key: Keys; with fewer heads than ``query`` each key head serves a group of query heads.
        mask: Boolean (True = attend) or additive, broadcastable to ``batch head query key``.
        is_causal: Query i attends to keys 0..i only.
        scale: Factor on the products; ``None`` is 1/sqrt(dim).
        rows: Indices of the queries wanted, or a slice of them; ``None`` is all of them.
        keys: The keys wanted, where it is known that no wanted query attends to any other; ``None`` is all of them.
        out: Memory for the result, of its shape and type; nothing else of that size is made then.

    Returns:
        Probabilities; every row sums to one, or is zero where every key is masked.
    """
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    query, key = _rows_of(query, rows), _rows_of(key, keys)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = _by_key_head(_at_least_float32(query) * scale, _at_least_float32(key), out)  # (B, H, R, K)
    if is_causal:
        positions = _rows_of(torch.arange(n_queries, device=query.device)[:, None], rows)
        key_positions = torch.arange(n_keys, device=query.device)[slice(None) if keys is None else keys]
        scores = scores.masked_fill_(key_positions > positions, -torch.inf)
    if mask is None:
        return torch.softmax(scores, -1, out=out)
    mask = mask_part(mask, rows, keys)
    is_boolean = mask.dtype is torch.bool
    scores = scores.masked_fill_(~mask, -torch.inf) if is_boolean else torch.add(scores, mask, out=out)
    if is_causal:
        hidden = scores.amax(-1) == -torch.inf
    else:
        hidden = ~mask.any(-1) if is_boolean else mask.amax(-1) == -torch.inf
    # A row without any key would be NaN; the fused kernels define its output as zero.
    probs = torch.softmax(scores, -1, out=out)
    return probs.nan_to_num_(nan=0.0) if hidden.any() else probs


def attention_gradient(
    output_gradient: Float[Tensor, "batch head query value_dim"],
    value: Float[Tensor, "batch key_head key value_dim"],
    *,
    rows: Int[Tensor, " row"] | slice | None = None,
    keys: slice | None = None,
    out: Tensor | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Gradient with respect to the probabilities, ∂y/∂A = (∂y/∂O)·Vᵀ.

    Exact for O = A·V and free of any graph. Half-precision inputs are computed in float32.

    Args:
        output_gradient: Gradient of the explained score with respect to the attention output O.
        value: Values; with fewer heads than ``output_gradient`` each serves a group of heads.
        rows: Indices of the queries wanted, or a slice of them; ``None`` is all of them.
        keys: The keys wanted; ``None`` is all of them.
        out: Memory for the result, of its shape and type.

    Returns:
        Gradient, in units of the score per unit of probability; signed.
    """
    gradient, value = _at_least_float32(_rows_of(output_gradient, rows)), _at_least_float32(_rows_of(value, keys))
    return _by_key_head(gradient, value, out)


def mask_part(mask: Tensor, rows: Int[Tensor, " row"] | slice | None, keys: slice | None = None) -> Tensor:
    """The part of an attention mask that belongs to some queries and keys.

    Args:
        mask: As in :func:`attention_probabilities`.
        rows: As there.
        keys: As there.

    Returns:
        The part; an axis of size one stands for all queries or keys and is kept.
    """
    mask = mask if mask.shape[-2] == 1 else _rows_of(mask, rows)
    return mask if keys is None or mask.shape[-1] == 1 else mask[..., keys]


def _by_key_head(queries: Tensor, keys: Tensor, out: Tensor | None = None) -> Tensor:
    """Products of every query with every key of its head; query heads that share keys are multiplied together."""
    n_heads, n_key_heads = queries.shape[-3], keys.shape[-3]
    if n_key_heads in (1, n_heads):
        return torch.matmul(queries, keys.transpose(-1, -2), out=out)
    # Repeating the keys for every query head would copy them; the heads of a group are rows of one product instead.
    *lead, _, n_rows, dim = queries.shape
    grouped = queries.reshape(*lead, n_key_heads, n_heads // n_key_heads * n_rows, dim)
    grouped_out = None if out is None else out.view(*grouped.shape[:-1], keys.shape[-2])
    return torch.matmul(grouped, keys.transpose(-1, -2), out=grouped_out).reshape(
        *lead, n_heads, n_rows, keys.shape[-2]
    )


def _rows_of(tensor: Tensor, rows: Tensor | slice | None) -> Tensor:
    """Some rows, on the axis before the last."""
    if rows is None:
        return tensor
    return tensor[..., rows, :] if isinstance(rows, slice) else tensor.index_select(-2, rows)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
