"""Gradient-weighted rollout: attention that counts towards, or against, an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attrib_plugin.functional.rollout import layers_from

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Sign = Literal["positive", "negative", "signed"]


def gradient_weighted_attention(
    probs: Float[Tensor, "*layer batch head query key"],
    gradients: Float[Tensor, "*layer batch head query key"],
    *,
    sign: Literal["positive", "negative"] = "positive",
) -> Float[Tensor, "*layer batch query key"]:
    """Mean over heads of the attention that speaks for, or against, the explained score.

    E_h[(∂A ⊙ A)⁺] for ``"positive"``, E_h[(-∂A ⊙ A)⁺] for ``"negative"``.

    Args:
        probs: Attention probabilities A.
        gradients: Gradient ∂A of the score with respect to them.
        sign: Which evidence to keep.

    Returns:
        Non-negative map in units of the score; rows do not sum to one.

    Raises:
        ValueError: If ``sign`` is neither ``"positive"`` nor ``"negative"``.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equation 5; the negative part is ours.
    """
    if sign not in ("positive", "negative"):
        raise ValueError(f"sign must be 'positive' or 'negative' here, not {sign!r}.")
    weighted = probs * gradients
    return (weighted if sign == "positive" else -weighted).clamp(min=0).mean(-3)


def row_normalized_gain(
    evidence: Float[Tensor, "*batch query key"], *, rows: Int[Tensor, " query"] | None = None
) -> Float[Tensor, "*batch query key"]:
    """What a row-normalised layer adds to the identity: rn(I + E) - I.

    Written as (E - diag(s)) / (1 + s) with the row sums s of E, so that small evidence is not lost
    beside the identity.

    Args:
        evidence: Non-negative E.
        rows: Which token each row of E belongs to; ``None`` when all rows are there.

    Returns:
        Every row sums to zero; only the diagonal is negative.
    """
    sums = evidence.sum(-1, keepdim=True)
    queries = torch.arange(evidence.shape[-2], device=evidence.device)
    gain = evidence.clone()
    gain[..., queries, queries if rows is None else rows] -= sums.squeeze(-1)
    return gain / (1.0 + sums)


def gradient_rollout(
    probs: Float[Tensor, "layer batch head token token"],
    gradients: Float[Tensor, "layer batch head token token"],
    *,
    sign: Sign = "positive",
    start_layer: int = 0,
    row_normalize: bool = False,
) -> Float[Tensor, "batch token token"]:
    """Roll out gradient-weighted attention: R ← R + E_h[(±∂A ⊙ A)⁺]·R from R = I.

    Args:
        probs: Attention probabilities A; rows are queries.
        gradients: Gradient ∂A of the explained score with respect to them.
        sign: ``"positive"`` (evidence for the score), ``"negative"`` (against it), or ``"signed"``
            (positive minus negative, in which the identity cancels).
        start_layer: First layer of the recursion, from 0.
        row_normalize: Divide the rows of I + E by their sums in every layer.

    Returns:
        Relevance of input token (last axis) for output token; includes the identity, except for ``"signed"``.

    Raises:
        ValueError: If ``sign`` is unknown or ``start_layer`` is no layer.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 5 and 6. ``row_normalize`` is the variant
        of the same authors' BERT code for arXiv:2012.09838.
    """
    _check_sign(sign)
    if sign == "signed":
        positive, negative = (
            gradient_rollout(probs, gradients, sign=one, start_layer=start_layer, row_normalize=row_normalize)
            for one in ("positive", "negative")
        )
        return positive - negative
    relevance = torch.eye(probs.shape[-1], dtype=probs.dtype, device=probs.device).expand(probs.shape[1], -1, -1)
    for layer in _gains(probs, gradients, sign, start_layer, row_normalize):
        relevance = relevance + layer @ relevance
    return relevance


def gradient_rollout_rows(
    probs: Float[Tensor, "layer batch head token token"],
    gradients: Float[Tensor, "layer batch head token token"],
    readout: Float[Tensor, "batch row token"],
    *,
    sign: Sign = "positive",
    start_layer: int = 0,
    row_normalize: bool = False,
) -> Float[Tensor, "batch row token"]:
    """Rows of :func:`gradient_rollout` without their start, from the top layer down.

    Args:
        probs: Attention probabilities A; rows are queries.
        gradients: Gradient ∂A of the explained score with respect to them.
        readout: Weights over output tokens, one combination a row; a one-hot row picks a token.
        sign: As in :func:`gradient_rollout`.
        start_layer: First layer of the recursion, from 0.
        row_normalize: As in :func:`gradient_rollout`.

    Returns:
        ``readout @ gradient_rollout(...) - readout`` for one sign; the difference of the two for ``"signed"``.

    Raises:
        ValueError: If ``sign`` is unknown or ``start_layer`` is no layer.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equation 6, read from the output side.
    """
    _check_sign(sign)
    if sign == "signed":
        positive, negative = (
            gradient_rollout_rows(
                probs, gradients, readout, sign=one, start_layer=start_layer, row_normalize=row_normalize
            )
            for one in ("positive", "negative")
        )
        return positive - negative
    gained = torch.zeros_like(readout)
    for layer in reversed(_gains(probs, gradients, sign, start_layer, row_normalize)):
        gained = gained + (readout + gained) @ layer
    return gained


def _gains(
    probs: Tensor,
    gradients: Tensor,
    sign: Literal["positive", "negative"],
    start_layer: int,
    row_normalize: bool,
) -> list[Tensor]:
    pairs = zip(layers_from(probs, start_layer), layers_from(gradients, start_layer), strict=True)
    evidence = [gradient_weighted_attention(*pair, sign=sign) for pair in pairs]
    return [row_normalized_gain(layer) for layer in evidence] if row_normalize else evidence


def _check_sign(sign: str) -> None:
    if sign not in ("positive", "negative", "signed"):
        raise ValueError(f"sign must be 'positive', 'negative' or 'signed', not {sign!r}.")
