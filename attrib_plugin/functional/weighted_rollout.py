"""Gradient-weighted rollout: attention that counts towards, or against, an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import torch
from torch import Tensor

from attrib_plugin.functional.choices import check_choice
from attrib_plugin.functional.rollout import (
    ROW_NORMALIZATIONS,
    RowNormalization,
    by_column,
    discard_lowest,
    layers_from,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Sign = Literal["positive", "negative", "signed"]
SIGNS: tuple[Sign, ...] = get_args(Sign)
Clamp = Literal["heads", "mean"]
CLAMPS: tuple[Clamp, ...] = get_args(Clamp)


class _Options(TypedDict):
    start_layer: int
    row_normalize: RowNormalization
    clamp: Clamp
    discard_ratio: float


def gradient_weighted_attention(
    probs: Float[Tensor, "*layer batch head query key"],
    gradients: Float[Tensor, "*layer batch head query key"],
    *,
    sign: Literal["positive", "negative"] = "positive",
    clamp: Clamp = "heads",
    out: Tensor | None = None,
) -> Float[Tensor, "*layer batch query key"]:
    """Mean over heads of the attention that speaks for, or against, the explained score.

    E_h[(∂A ⊙ A)⁺] for ``"positive"``, E_h[(-∂A ⊙ A)⁺] for ``"negative"``.

    Args:
        probs: Attention probabilities A.
        gradients: Gradient ∂A of the score with respect to them.
        sign: Which evidence to keep.
        clamp: What drops its other sign: each of the ``"heads"``, or their ``"mean"``, as in vit-explain.
        out: Memory of the shape of ``probs`` to work in, which may be that of ``gradients``.

    Returns:
        Non-negative map in units of the score; rows do not sum to one.

    Raises:
        ValueError: If ``sign`` is neither ``"positive"`` nor ``"negative"``, or ``clamp`` is unknown.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equation 5; the negative part is ours.
    """
    if sign not in ("positive", "negative"):
        raise ValueError(f"sign must be 'positive' or 'negative' here, not {sign!r}.")
    check_choice("clamp", clamp, CLAMPS)
    weighted = torch.mul(probs, gradients, out=out)
    if clamp == "mean":
        weighted = weighted.mean(-3)
    weighted = weighted.clamp_(min=0) if sign == "positive" else weighted.clamp_(max=0)
    if clamp == "heads":
        weighted = weighted.mean(-3) if weighted.shape[-3] > 1 else weighted.squeeze(-3)
    return weighted if sign == "positive" else weighted.neg_()


def score_gradients(
    probs: Float[Tensor, "*layer batch head query key"], gradients: Float[Tensor, "*layer batch head query key"]
) -> Float[Tensor, "*layer batch head query key"]:
    """Gradient of the explained score with respect to attention scores, from that with respect to probabilities.

    The softmax taken backwards: A ⊙ (∂A - Σ_k A_k ∂A_k).

    Args:
        probs: Attention probabilities A.
        gradients: Gradient ∂A of the explained score with respect to them.

    Returns:
        Gradient with respect to what the softmax was taken of, signed; every row sums to zero.
    """
    return probs * (gradients - (probs * gradients).sum(-1, keepdim=True))


def row_normalized_gain(
    evidence: Float[Tensor, "*batch query key"],
    *,
    rows: Int[Tensor, " query"] | None = None,
    row_normalize: Literal[True, "vit_explain"] = True,
) -> Float[Tensor, "*batch query key"]:
    """What a row-normalised layer adds to the identity: rn(I + E) - I.

    Written as (E - diag(s)) / (1 + s) with the row sums s of E, so that small evidence is not lost
    beside the identity.

    Args:
        evidence: Non-negative E.
        rows: Which token each row of E belongs to; ``None`` when all rows are there.
        row_normalize: ``"vit_explain"`` divides column j of I + E by the sum of row j instead.

    Returns:
        Every row sums to zero, unless by ``"vit_explain"``; only the diagonal is negative.

    Raises:
        ValueError: If ``"vit_explain"`` is asked for while only some rows are there.
    """
    sums = evidence.sum(-1, keepdim=True)
    queries = torch.arange(evidence.shape[-2], device=evidence.device)
    gain = evidence.clone()
    gain[..., queries, queries if rows is None else rows] -= sums.squeeze(-1)
    return gain / (1.0 + (by_column(sums, rows) if row_normalize == "vit_explain" else sums))


def gradient_rollout(
    probs: Float[Tensor, "layer batch head token token"],
    gradients: Float[Tensor, "layer batch head token token"],
    *,
    sign: Sign = "positive",
    start_layer: int = 0,
    row_normalize: RowNormalization = False,
    clamp: Clamp = "heads",
    discard_ratio: float = 0.0,
) -> Float[Tensor, "batch token token"]:
    """Roll out gradient-weighted attention: R ← R + E_h[(±∂A ⊙ A)⁺]·R from R = I.

    Args:
        probs: Attention probabilities A; rows are queries.
        gradients: Gradient ∂A of the explained score with respect to them.
        sign: ``"positive"`` (evidence for the score), ``"negative"`` (against it), or ``"signed"``
            (positive minus negative, in which the identity cancels).
        start_layer: First layer of the recursion, from 0.
        row_normalize: Divide the rows of I + E by their sums in every layer; ``"vit_explain"`` divides column j by the
            sum of row j, as vit-explain does by mistake.
        clamp: As in :func:`gradient_weighted_attention`.
        discard_ratio: Share of the smallest entries of every E that is set to zero.

    Returns:
        Relevance of input token (last axis) for output token; includes the identity, except for ``"signed"``.

    Raises:
        ValueError: If ``start_layer`` is no layer, ``discard_ratio`` is outside [0, 1), or another option is unknown.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 5 and 6. ``row_normalize`` is the variant
        of the same authors' BERT code for arXiv:2012.09838.
    """
    check_choice("sign", sign, SIGNS)
    options: _Options = {
        "start_layer": start_layer, "row_normalize": row_normalize, "clamp": clamp, "discard_ratio": discard_ratio,
    }  # fmt: skip
    if sign == "signed":
        positive = gradient_rollout(probs, gradients, sign="positive", **options)
        return positive - gradient_rollout(probs, gradients, sign="negative", **options)
    relevance = torch.eye(probs.shape[-1], dtype=probs.dtype, device=probs.device).expand(probs.shape[1], -1, -1)
    for layer in _gains(probs, gradients, sign, **options):
        relevance = relevance + layer @ relevance
    return relevance


def gradient_rollout_rows(
    probs: Float[Tensor, "layer batch head token token"],
    gradients: Float[Tensor, "layer batch head token token"],
    readout: Float[Tensor, "batch row token"],
    *,
    sign: Sign = "positive",
    start_layer: int = 0,
    row_normalize: RowNormalization = False,
    clamp: Clamp = "heads",
    discard_ratio: float = 0.0,
) -> Float[Tensor, "batch row token"]:
    """Rows of :func:`gradient_rollout` without their start, from the top layer down.

    Args:
        probs: Attention probabilities A; rows are queries.
        gradients: Gradient ∂A of the explained score with respect to them.
        readout: Weights over output tokens, one combination a row; a one-hot row picks a token.
        sign: As in :func:`gradient_rollout`.
        start_layer: First layer of the recursion, from 0.
        row_normalize: As in :func:`gradient_rollout`.
        clamp: As in :func:`gradient_rollout`.
        discard_ratio: As in :func:`gradient_rollout`.

    Returns:
        ``readout @ gradient_rollout(...) - readout`` for one sign; the difference of the two for ``"signed"``.

    Raises:
        ValueError: If ``start_layer`` is no layer, ``discard_ratio`` is outside [0, 1), or another option is unknown.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equation 6, read from the output side.
    """
    check_choice("sign", sign, SIGNS)
    options: _Options = {
        "start_layer": start_layer, "row_normalize": row_normalize, "clamp": clamp, "discard_ratio": discard_ratio,
    }  # fmt: skip
    if sign == "signed":
        positive = gradient_rollout_rows(probs, gradients, readout, sign="positive", **options)
        return positive - gradient_rollout_rows(probs, gradients, readout, sign="negative", **options)
    gained = torch.zeros_like(readout)
    for layer in reversed(_gains(probs, gradients, sign, **options)):
        gained = gained + (readout + gained) @ layer
    return gained


def _gains(
    probs: Tensor,
    gradients: Tensor,
    sign: Literal["positive", "negative"],
    *,
    start_layer: int,
    row_normalize: RowNormalization,
    clamp: Clamp,
    discard_ratio: float,
) -> list[Tensor]:
    check_choice("row_normalize", row_normalize, ROW_NORMALIZATIONS)
    pairs = zip(layers_from(probs, start_layer), layers_from(gradients, start_layer), strict=True)
    evidence = [gradient_weighted_attention(*pair, sign=sign, clamp=clamp) for pair in pairs]
    if discard_ratio != 0:
        evidence = [discard_lowest(layer, discard_ratio) for layer in evidence]
    return (
        [row_normalized_gain(layer, row_normalize=row_normalize) for layer in evidence] if row_normalize else evidence
    )
