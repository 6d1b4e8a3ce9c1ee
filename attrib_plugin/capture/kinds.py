"""Self-attention, causal attention, cross-attention and pooling, told apart by shapes, masks and names."""

from __future__ import annotations

import torch
from torch import Tensor


def kind_of(name: str, n_queries: int, n_keys: int, looks_back: bool) -> str:
    """What kind of attention a call is.

    Args:
        name: Dotted name of the module that made it.
        n_queries: Number of queries.
        n_keys: Number of keys.
        looks_back: Whether no query attends to a later key.

    Returns:
        ``"self"``, ``"causal"``, ``"cross"`` or ``"pool"``.
    """
    module = name.rsplit(".", 1)[-1].lower()
    if n_queries != n_keys:
        return "pool" if n_queries == 1 or "pool" in name.lower() else "cross"
    # In transformers some attention sits one module deeper: "crossattention.self".
    if "cross" in "".join(name.lower().split(".")[-2:]) or module in (
        "encoder_attn",
        "encdecattention",
        "multihead_attn",
    ):
        return "cross"
    return "causal" if looks_back and n_queries > 1 else "self"


def is_causal_mask(mask: Tensor | None) -> bool:
    """Whether a mask hides from the first query all that follows it.

    Args:
        mask: True or 0 where a key may be attended to.

    Returns:
        False for a mask of one key, and for none.
    """
    if mask is None or mask.shape[-2] != mask.shape[-1] or mask.shape[-1] == 1:
        return False
    first = mask[..., 0, 1:]
    hidden = ~first if mask.dtype is torch.bool else first < torch.finfo(mask.dtype).min / 2
    return bool(hidden.all())
