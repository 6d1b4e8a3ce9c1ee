"""Scores of a short rationale: what the model loses without it, and how far it is what people marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation.perturbation import Perturbation, counts_of_shares
from attrib_plugin.evaluation.ranking import average_precision, check_finite, removal_ranks
from attrib_plugin.evaluation.scoring import Score, only_tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

ERASER_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


def comprehensiveness(  # noqa: PLR0917  # the order of Captum's metrics
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    *,
    shares: Sequence[float] = ERASER_SHARES,
    score: Score = "probability",
    **options: Any,
) -> Float[Tensor, " batch"]:
    """What the model loses when the most relevant units are removed: was all that it needs found? High is good.

    Units are replaced by ``baselines``; ERASER deletes them from the text.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        baselines: As in :func:`perturbation_curve`.
        additional_forward_args: As in :func:`perturbation_curve`.
        target: As in :func:`perturbation_curve`.
        shares: Lengths of the rationale as shares of the units; each is rounded half up and at least one unit.
        score: As in :func:`perturbation_curve`.
        **options: ``feature_mask``, ``forward_kwargs`` and ``internal_batch_size`` of :func:`perturbation_curve`.

    Returns:
        ``score(input) - score(input without rationale)``, averaged over ``shares``; -1 to 1 for probabilities.

    Raises:
        InputError: As :func:`perturbation_curve`, or if a share is outside 0 to 1.

    Reference:
        DeYoung et al. 2020, arXiv:1911.03429 (ERASER), section 4.
    """
    perturbation = Perturbation(
        forward_func, inputs, attributions, baselines, additional_forward_args, target, score=score, **options
    )
    counts = counts_of_shares(perturbation.units.counts, shares, at_least=1, half_up=True)
    return perturbation.original - perturbation.scores(counts, "most").mean(-1)


def sufficiency(  # noqa: PLR0917  # the order of Captum's metrics
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    *,
    shares: Sequence[float] = ERASER_SHARES,
    score: Score = "probability",
    **options: Any,
) -> Float[Tensor, " batch"]:
    """What the model loses when only the most relevant units are kept: are they enough? Low is good.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        baselines: As in :func:`perturbation_curve`.
        additional_forward_args: As in :func:`perturbation_curve`.
        target: As in :func:`perturbation_curve`.
        shares: As in :func:`comprehensiveness`.
        score: As in :func:`perturbation_curve`.
        **options: As in :func:`comprehensiveness`.

    Returns:
        ``score(input) - score(rationale alone)``, averaged over ``shares``; -1 to 1 for probabilities.

    Raises:
        InputError: As :func:`comprehensiveness`.

    Reference:
        DeYoung et al. 2020, arXiv:1911.03429 (ERASER), section 4.
    """
    perturbation = Perturbation(
        forward_func, inputs, attributions, baselines, additional_forward_args, target, score=score, **options
    )
    counts = counts_of_shares(perturbation.units.counts, shares, at_least=1, half_up=True)
    return perturbation.original - perturbation.scores(counts, "most", keep=True).mean(-1)


def log_odds(  # noqa: PLR0917  # the order of Captum's metrics
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    *,
    shares: Sequence[float] = (0.2,),
    **options: Any,
) -> Float[Tensor, " batch"]:
    """Change of the log-probability when the most relevant units are removed; low (far below zero) is good.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        baselines: As in :func:`perturbation_curve`.
        additional_forward_args: As in :func:`perturbation_curve`.
        target: As in :func:`perturbation_curve`.
        shares: As in :func:`comprehensiveness`.
        **options: As in :func:`comprehensiveness`.

    Returns:
        ``log p(input without rationale) - log p(input)`` in nats, averaged over ``shares``.

    Raises:
        InputError: As :func:`comprehensiveness`.

    Reference:
        Shrikumar, Greenside and Kundaje 2017, arXiv:1704.02685; Chen and Ji 2020, arXiv:2004.02015.
    """
    options.setdefault("score", "log_probability")
    return -comprehensiveness(
        forward_func, inputs, attributions, baselines, additional_forward_args, target, shares=shares, **options
    )


def token_f1(
    attributions: Any,
    rationales: Bool[Tensor, "batch token"],
    k: int | None = None,
    *,
    valid: Bool[Tensor, "batch token"] | None = None,
) -> Float[Tensor, " batch"]:
    """F1 of the k most relevant tokens against the tokens that people marked.

    Args:
        attributions: One value a token (B,T). Equal values are taken in reading order.
        rationales: True at marked tokens; at least one in every text.
        k: Number of tokens to take, all of them in shorter texts; ``None`` takes as many as were marked.
        valid: False at tokens that do not count, such as padding and special tokens.

    Returns:
        Between 0 and 1; high is good. A constant map gets what its first k tokens get.

    Raises:
        InputError: If shapes differ, a map is not finite, a text has no marked token, or ``k`` is below 1.

    Reference:
        DeYoung et al. 2020, arXiv:1911.03429 (ERASER), token-level F1.
    """
    both, taken, marked = _overlap(attributions, rationales, k, valid)
    return 2 * both / (taken + marked)


def token_iou(
    attributions: Any,
    rationales: Bool[Tensor, "batch token"],
    k: int | None = None,
    *,
    valid: Bool[Tensor, "batch token"] | None = None,
) -> Float[Tensor, " batch"]:
    """Intersection over union of the k most relevant tokens and the tokens that people marked.

    ERASER's IoU F1 compares spans; this is the same overlap token by token.

    Args:
        attributions: As in :func:`token_f1`.
        rationales: As in :func:`token_f1`.
        k: As in :func:`token_f1`.
        valid: As in :func:`token_f1`.

    Returns:
        Between 0 and 1; high is good.

    Raises:
        InputError: As :func:`token_f1`.
    """
    both, taken, marked = _overlap(attributions, rationales, k, valid)
    return both / (taken + marked - both)


def token_auprc(
    attributions: Any,
    rationales: Bool[Tensor, "batch token"],
    *,
    valid: Bool[Tensor, "batch token"] | None = None,
    interpolate: bool = False,
) -> Float[Tensor, " batch"]:
    """Area under precision over recall when the map is read as a detector of the tokens that people marked.

    Args:
        attributions: As in :func:`token_f1`; equal values pass the threshold together.
        rationales: As in :func:`token_f1`.
        valid: As in :func:`token_f1`.
        interpolate: Join the points by straight lines, as ERASER's code does.

    Returns:
        Between 0 and 1; high is good. A constant map gets the share of marked tokens.

    Raises:
        InputError: As :func:`token_f1`.

    Reference:
        DeYoung et al. 2020, arXiv:1911.03429 (ERASER), AUPRC.
    """
    relevance, marked, valid = _checked(attributions, rationales, valid)
    scores = [
        average_precision(one[chosen], truth[chosen], interpolate=interpolate)
        for one, truth, chosen in zip(relevance, marked, valid, strict=True)
    ]
    return torch.stack(scores)


def _overlap(
    attributions: Any, rationales: Tensor, k: int | None, valid: Tensor | None
) -> tuple[Tensor, Tensor, Int[Tensor, " batch"]]:
    """Number of tokens in both, taken, and marked."""
    relevance, marked, valid = _checked(attributions, rationales, valid)
    if k is not None and k < 1:
        raise InputError(f"k must be at least 1, not {k}.")
    n_marked = marked.sum(-1)
    wanted = n_marked if k is None else valid.sum(-1).clamp(max=k)
    taken = removal_ranks(relevance, "most", valid) < wanted[:, None]
    return (taken & marked).sum(-1).double(), wanted.double(), n_marked


def _checked(attributions: Any, rationales: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    relevance = only_tensor(attributions, "attributions").detach()
    check_finite(relevance)
    valid = torch.ones_like(rationales, dtype=torch.bool) if valid is None else valid.bool()
    if not relevance.shape == rationales.shape == valid.shape or relevance.dim() != 2:
        raise InputError(
            f"Expected one value a token (B, T) in all, found attributions {tuple(relevance.shape)}, rationales "
            f"{tuple(rationales.shape)} and valid {tuple(valid.shape)}."
        )
    marked = rationales.bool() & valid
    if not marked.any(-1).all():
        wrong = int((~marked.any(-1)).nonzero()[0])
        raise InputError(f"Text {wrong} has no marked token, so there is nothing to find. Leave it out.")
    return relevance.double(), marked, valid
