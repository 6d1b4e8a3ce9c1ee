"""Probabilities and gradients of a recorded call, for all queries or for some, fused or eager."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.functional.attention import attention_gradient, attention_probabilities
from attrib_plugin.records import AttentionCall

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_T = TypeVar("_T")


def call_probabilities(call: AttentionCall, rows: Tensor | None = None) -> Float[Tensor, "batch head row key"]:
    """Attention probabilities of a call.

    Args:
        call: The recorded call.
        rows: Indices of the queries wanted; ``None`` is all of them.

    Returns:
        Probabilities, at least float32; rows sum to one, or to zero where every key is masked.

    Raises:
        UnsupportedAttentionError: If the call has no axes for batch and heads.
    """
    if call.weights is not None:
        weights = _by_sample(call.weights, call)
        weights = weights if rows is None else weights.index_select(-2, rows)
        return weights.float() if weights.dtype in (torch.float16, torch.bfloat16) else weights
    query, key = _by_sample(_defined(call.query), call), _by_sample(_defined(call.key), call)
    return attention_probabilities(query, key, mask=call.mask, is_causal=call.is_causal, scale=call.scale, rows=rows)


def call_gradient(
    call: AttentionCall, output_gradient: Tensor, rows: Tensor | None = None
) -> Float[Tensor, "batch head row key"]:
    """Gradient of the explained score with respect to the probabilities of a call.

    Args:
        call: The recorded call.
        output_gradient: Gradient of the score with respect to ``call.output``.
        rows: Indices of the queries wanted; ``None`` is all of them.

    Returns:
        Gradient in units of the score, signed, at least float32.

    Raises:
        UnsupportedAttentionError: If the call has no axes for batch and heads.
    """
    if call.value is not None:
        return attention_gradient(_by_sample(output_gradient, call), _by_sample(call.value, call), rows=rows)
    with torch.enable_grad():
        weights = _defined(call.weights).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_defined(call.product)(weights), weights, output_gradient)
    gradient = _by_sample(gradient, call)
    return gradient if rows is None else gradient.index_select(-2, rows)


def call_padding(call: AttentionCall) -> Bool[Tensor, "batch key"] | None:
    """Which keys no query may attend to.

    Args:
        call: The recorded self-attention call.

    Returns:
        True at padding; ``None`` when every key is attended to.
    """
    if call.weights is not None:
        return _eager_padding(_by_sample(call.weights, call))
    if call.mask is None:
        return None
    mask = call.mask
    visible = mask if mask.dtype is torch.bool else mask > torch.finfo(mask.dtype).min / 2
    while visible.dim() < 4:
        visible = visible.unsqueeze(0)
    padding = ~visible.any(2).any(1)
    return padding.expand(call.batch_size, -1) if padding.any() else None


def _eager_padding(weights: Tensor) -> Tensor | None:
    """Keys that no query attends to, except queries that attend to everything alike.

    Eager attention of transformers adds the lowest number to masked scores, so that the row of a query without any key
    is uniform. Such rows would make padding look like text.
    """
    uniform = (weights == weights[..., :1]).all(-1).all(1)
    attended = (weights > 0).any(1) & ~uniform[..., None]
    # A key that only a causal mask hides from the others is no padding, though its own row may be uniform.
    looks_ahead = attended.triu(1).flatten(1).any(-1, keepdim=True)
    has_later = (~uniform).flip(-1).cumsum(-1).flip(-1) > 0
    padding = ~attended.any(1) & (looks_ahead | has_later)
    return padding if padding.any() else None


def _by_sample(tensor: Tensor, call: AttentionCall) -> Tensor:
    """The tensor with axes for batch and heads: ``batch*head ...`` is taken apart, ``batch ...`` has one head."""
    if tensor.dim() == 4:
        return tensor
    if tensor.dim() == 3 and len(tensor) % call.batch_size == 0:
        return tensor.reshape(call.batch_size, -1, *tensor.shape[1:])
    raise UnsupportedAttentionError(
        f"Attention of {call.name!r} has shape {tuple(tensor.shape)} for {call.batch_size} samples. Expected axes "
        "(batch, head, token, dim) or (batch*head, token, dim); windowed attention cannot be followed from token "
        "to token."
    )


def _defined(part: _T | None) -> _T:
    if part is None:
        raise ValueError("An attention call holds either query, key and value, or weights with their product.")
    return part
