"""Evidence for and against the explained score, of the signs that a method was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attrib_plugin.functional import gradient_weighted_attention
from attrib_plugin.functional.weighted_rollout import Clamp
from attrib_plugin.methods.base.blocks import RowBlock

if TYPE_CHECKING:
    from jaxtyping import Float

Sign = Literal["positive", "negative", "signed"]

SIGNS: dict[Sign, tuple[Literal["positive", "negative"], ...]] = {
    "positive": ("positive",),
    "negative": ("negative",),
    "signed": ("positive", "negative"),
}
"""The recursions that each sign takes."""


def evidence_by_sign(block: RowBlock, sign: Sign, *, clamp: Clamp = "heads") -> Float[Tensor, "sign batch row token"]:
    """Gradient-weighted attention of some rows of a layer.

    Args:
        block: The rows; their gradients are used up where the block is only lent.
        sign: What was asked for.
        clamp: What drops its other sign.

    Returns:
        Non-negative evidence, one map for each recursion.
    """
    return weighted_by_sign(*block.weighted, sign, clamp=clamp, out=block.gradients if block.is_lent else None)


def weighted_by_sign(
    weights: Float[Tensor, "batch head row token"],
    gradients: Float[Tensor, "batch head row token"],
    sign: Sign,
    *,
    clamp: Clamp = "heads",
    out: Tensor | None = None,
) -> Float[Tensor, "sign batch row token"]:
    """Something of each head weighted with its gradient, or with something else.

    Args:
        weights: What is weighted.
        gradients: What it is weighted with.
        sign: What was asked for.
        clamp: What drops its other sign.
        out: Memory of their shape to work in, which may be that of ``gradients``.

    Returns:
        Non-negative evidence, one map for each recursion.
    """
    *earlier, last = SIGNS[sign]
    parts = [gradient_weighted_attention(weights, gradients, sign=one, clamp=clamp) for one in earlier]
    parts.append(gradient_weighted_attention(weights, gradients, sign=last, clamp=clamp, out=out))
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]


def net_evidence(by_sign: Float[Tensor, "sign ..."], sign: Sign) -> Float[Tensor, "*shape"]:
    """The result of the recursions as one: for ``"signed"`` the positive minus the negative.

    Args:
        by_sign: One result for each recursion.
        sign: What was asked for.

    Returns:
        The result.
    """
    return by_sign[0] - by_sign[1] if sign == "signed" else by_sign[0]
