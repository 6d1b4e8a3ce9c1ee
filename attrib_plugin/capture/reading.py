"""Probabilities and gradients of a recorded call, for all queries or for some, fused or eager."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.functional.attention import attention_gradient, attention_probabilities, mask_part
from attrib_plugin.records import AttentionCall

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_T = TypeVar("_T")


def call_probabilities(
    call: AttentionCall,
    rows: Tensor | slice | None = None,
    keys: slice | None = None,
    *,
    out: Tensor | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Attention probabilities of a call.

    Args:
        call: The recorded call.
        rows: Indices of the queries wanted, or a slice of them; ``None`` is all of them.
        keys: The keys wanted, where no wanted query attends to any other; ``None`` is all of them.
        out: Memory for the result of a fused call, of its shape and type.

    Returns:
        Probabilities, at least float32; rows sum to one, or to zero where every key is masked.

    Raises:
        UnsupportedAttentionError: If the call has no axes for batch and heads.
    """
    if call.weights is not None:
        weights = _rows_and_keys(_by_sample(call.weights, call), rows, keys)
        return weights.float() if weights.dtype in (torch.float16, torch.bfloat16) else weights
    query, key = _by_sample(_defined(call.query), call), _by_sample(_defined(call.key), call)
    return attention_probabilities(
        query, key, mask=call.mask, is_causal=call.is_causal, scale=call.scale, rows=rows, keys=keys, out=out
    )


def call_gradient(
    call: AttentionCall,
    output_gradient: Tensor,
    rows: Tensor | slice | None = None,
    keys: slice | None = None,
    *,
    out: Tensor | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Gradient of the explained score with respect to the probabilities of a call.

    Args:
        call: The recorded call.
        output_gradient: Gradient of the score with respect to ``call.output``.
        rows: Indices of the queries wanted, or a slice of them; ``None`` is all of them.
        keys: The keys wanted; ``None`` is all of them.
        out: Memory for the result of a fused call, of its shape and type.

    Returns:
        Gradient in units of the score, signed, at least float32.

    Raises:
        UnsupportedAttentionError: If the call has no axes for batch and heads.
    """
    if call.value is not None:
        value = _by_sample(call.value, call)
        return attention_gradient(_by_sample(output_gradient, call), value, rows=rows, keys=keys, out=out)
    with torch.enable_grad():
        weights = _defined(call.weights).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_defined(call.product)(weights), weights, output_gradient)
    return _rows_and_keys(_by_sample(gradient, call), rows, keys)


def part_of_call(call: AttentionCall, samples: slice, heads: slice) -> AttentionCall:
    """A fused call for some of its samples and heads.

    Args:
        call: A call for which :func:`can_be_cut` is true.
        samples: Which samples.
        heads: Which query heads; either whole groups of heads that share keys, or some of one group.

    Returns:
        The call with views of its tensors.
    """
    query, key = _defined(call.query), _defined(call.key)
    group = query.shape[1] // key.shape[1]
    key_heads = slice(heads.start // group, -(-heads.stop // group))
    return replace(
        call,
        query=query[samples, heads],
        key=key[samples, key_heads],
        value=_defined(call.value)[samples, key_heads],
        mask=None if call.mask is None else _mask_of(call.mask, samples, heads),
        batch_size=samples.stop - samples.start,
    )


def can_be_cut(call: AttentionCall) -> bool:
    """Whether :func:`part_of_call` can give some samples and heads of a call.

    Args:
        call: The recorded call.

    Returns:
        True for fused calls with axes for batch and heads, and as many heads of keys as of values.
    """
    fused = [tensor for tensor in (call.query, call.key, call.value) if tensor is not None and tensor.dim() == 4]
    if len(fused) < 3 or any(len(tensor) != call.batch_size for tensor in fused):
        return False
    return fused[1].shape[1] == fused[2].shape[1]


def differs_by_head(call: AttentionCall) -> bool:
    """Whether the mask of a call may hide other keys from each head.

    Args:
        call: The recorded call.

    Returns:
        True for a mask with an axis of heads.
    """
    return call.mask is not None and call.mask.dim() >= 3 and call.mask.shape[-3] > 1


def visible_keys(call: AttentionCall, rows: slice) -> slice:
    """The range of keys outside of which no key is attended to by some queries.

    Args:
        call: A fused call.
        rows: Which queries.

    Returns:
        The range. Where there are as many queries as keys it has the queries' own positions too.
    """
    n_keys = _defined(call.key).shape[-2]
    first, last = 0, n_keys
    if call.is_causal:
        last = min(rows.stop, n_keys)
    elif call.mask is not None and call.mask.shape[-2] > 1 and call.mask.shape[-1] > 1:
        mask = mask_part(call.mask, rows)
        visible = mask if mask.dtype is torch.bool else mask > torch.finfo(mask.dtype).min / 2
        # A query to which every key is hidden by a large number, not by infinity, attends to all of them alike.
        if mask.dtype is torch.bool or visible.any(-1).all():
            used = visible.reshape(-1, n_keys).any(0).nonzero()
            first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    if _defined(call.query).shape[-2] == n_keys:
        first, last = min(first, rows.start), max(last, rows.stop)
    return slice(first, max(last, first + 1))


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
    """Keys that no query attends to, except queries to which every key is hidden."""
    keyless = _without_keys(weights)
    attended = (weights > 0).any(1) & ~keyless[..., None]
    # A key that only a causal mask hides from the others is no padding, though its own row may be uniform.
    looks_ahead = attended.triu(1).flatten(1).any(-1, keepdim=True)
    has_later = (~keyless).flip(-1).cumsum(-1).flip(-1) > 0
    padding = ~attended.any(1) & (looks_ahead | has_later)
    return padding if padding.any() else None


def _without_keys(weights: Tensor) -> Tensor:
    """Queries whose row is what is left when every key is hidden; such rows would make padding look like text.

    Eager attention of transformers adds the lowest number to masked scores, so that such a row is uniform. GPT-Neo, and
    GPT-2 of transformers 4, have overwritten the scores of keys ahead, or outside of a window, with that number before:
    the two add up to minus infinity, and the row is uniform over the keys within reach alone.
    """
    n_queries, n_keys = weights.shape[-2:]
    uniform = (weights == weights[..., :1]).all(-1)
    if n_queries != n_keys:
        return uniform.all(1)
    position = torch.arange(n_keys, device=weights.device)
    distance = position[:, None] - position
    # No window is narrower than two tokens; a first token attends to itself whatever the window.
    reach = distance[(weights > 0).flatten(0, 1).any(0)].amax().clamp(min=1)
    within = (distance >= 0) & (distance <= reach)
    own = weights.diagonal(dim1=-2, dim2=-1)[..., None]
    return (uniform | (weights == own * within).all(-1)).all(1)


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


def _rows_and_keys(entries: Tensor, rows: Tensor | slice | None, keys: slice | None) -> Tensor:
    if rows is not None:
        entries = entries[..., rows, :] if isinstance(rows, slice) else entries.index_select(-2, rows)
    return entries if keys is None else entries[..., keys]


def _mask_of(mask: Tensor, samples: slice, heads: slice) -> Tensor:
    """The part of a mask of up to four axes; one of size one, or missing, stands for all."""
    if mask.dim() >= 3 and mask.shape[-3] > 1:
        mask = mask[..., heads, :, :]
    return mask[samples] if mask.dim() == 4 and len(mask) > 1 else mask


def _defined(part: _T | None) -> _T:
    if part is None:
        raise ValueError("An attention call holds either query, key and value, or weights with their product.")
    return part
