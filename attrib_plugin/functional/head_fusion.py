"""From one attention map per head to one map per layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

HeadFusion = Literal["mean", "max", "min"] | Callable[[Tensor], Any]


def fuse_heads(
    probs: Float[Tensor, "*layer batch head query key"], how: HeadFusion = "mean"
) -> Float[Tensor, "*layer batch query key"]:
    """Fuse the heads of a layer.

    Args:
        probs: Attention probabilities per head.
        how: ``"mean"`` keeps rows stochastic; ``"max"`` and ``"min"`` do not. A callable takes the
            probabilities and removes axis -3; it must treat every query row by itself.

    Returns:
        One non-negative map; rows sum to one for ``"mean"`` only. Of a single head it may be a view.

    Raises:
        ValueError: If ``how`` is unknown, or a callable returns another shape.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928 (mean).
    """
    if how == "mean":
        return probs.mean(-3) if probs.shape[-3] > 1 else probs.squeeze(-3)
    if how == "max":
        return probs.amax(-3)
    if how == "min":
        return probs.amin(-3)
    if not callable(how):
        raise ValueError(f"head_fusion must be 'mean', 'max', 'min' or a callable, not {how!r}.")
    fused = how(probs)
    expected = probs.shape[:-3] + probs.shape[-2:]
    if not isinstance(fused, Tensor) or fused.shape != expected:
        found = tuple(fused.shape) if isinstance(fused, Tensor) else type(fused).__name__
        raise ValueError(
            f"A head_fusion callable must map heads {tuple(probs.shape)} to {tuple(expected)}; it returned {found}."
        )
    return fused
