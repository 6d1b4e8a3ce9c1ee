"""Evidence for and against the explained score, of the signs that a method was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attrib_plugin.functional import gradient_weighted_attention
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


def evidence_by_sign(block: RowBlock, sign: Sign) -> Float[Tensor, "sign batch row token"]:
    """Gradient-weighted attention of some rows of a layer.

    Args:
        block: The rows.
        sign: What was asked for.

    Returns:
        Non-negative evidence, one map for each recursion.
    """
    return torch.stack([gradient_weighted_attention(*block.weighted, sign=one) for one in SIGNS[sign]])


def net_evidence(by_sign: Float[Tensor, "sign ..."], sign: Sign) -> Float[Tensor, "*shape"]:
    """The result of the recursions as one: for ``"signed"`` the positive minus the negative.

    Args:
        by_sign: One result for each recursion.
        sign: What was asked for.

    Returns:
        The result.
    """
    return by_sign[0] - by_sign[1] if sign == "signed" else by_sign[0]
