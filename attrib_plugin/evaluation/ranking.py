"""Orders and what is computed from them: ranks with ties, rank correlation, average precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attrib_plugin.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Order = Literal["most", "least"]
"""``"most"``: the highest relevance first; ``"least"``: the lowest first."""


def removal_ranks(
    relevance: Float[Tensor, "batch unit"], order: Order, present: Bool[Tensor, "batch unit"] | None = None
) -> Int[Tensor, "batch unit"]:
    """The place of every unit in an order of relevance, from 0.

    Equal values keep the order in which they stand, in *both* orders. So the order "least" of a map is the order
    "most" of the negated map, and all units of a constant map come in the same order either way.

    Args:
        relevance: Any finite values.
        order: Which end comes first.
        present: False at units that a sample does not have; they come last.

    Returns:
        Ranks, a permutation of 0 ... U-1 in every row.

    Raises:
        InputError: If ``order`` is unknown.
    """
    if order not in ("most", "least"):
        raise InputError(f"order must be 'most' or 'least', not {order!r}.")
    descending = order == "most"
    keys = relevance
    if present is not None:
        keys = relevance.masked_fill(~present, -torch.inf if descending else torch.inf)
    places = keys.sort(dim=-1, descending=descending, stable=True).indices
    count = torch.arange(relevance.shape[-1], device=relevance.device).expand_as(places)
    return torch.empty_like(places).scatter_(-1, places, count)


def average_ranks(values: Float[Tensor, "... unit"]) -> Float[Tensor, "... unit"]:
    """Ranks from 0, equal values sharing the mean of theirs.

    Args:
        values: Any finite values.

    Returns:
        float64 ranks.
    """
    ordered = values.sort(-1).values.contiguous()
    values = values.contiguous()
    below = torch.searchsorted(ordered, values, right=False)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to - 1).double() / 2


def rank_correlation(
    first: Float[Tensor, "batch ..."],
    second: Float[Tensor, "batch ..."],
    valid: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, " batch"]:
    """Spearman's rank correlation of two maps of every sample.

    Args:
        first: Maps of any shape, one a sample.
        second: Maps of the same shape.
        valid: False at values to leave aside, such as padding.

    Returns:
        float64 between -1 and 1, ties at their mean rank. Constant maps order nothing: 0 against a map that is not
        constant, 1 if both are.

    Raises:
        InputError: If shapes differ, a value is not finite, or a sample has no valid value.
    """
    first, second, valid = _pair(first, second, valid)
    scores = []
    for one, other, chosen in zip(first, second, valid, strict=True):
        ranks = torch.stack([average_ranks(one[chosen]), average_ranks(other[chosen])])
        # Twice the distance from the mean rank: integers, so that the same order gives exactly 1.
        ranks = 2 * ranks - (ranks.shape[-1] - 1)
        sizes = ranks.square().sum(-1)
        if (sizes == 0).any():
            scores.append((sizes == 0).all().double())
        else:
            scores.append((ranks[0] @ ranks[1]) / sizes.prod().sqrt())
    return torch.stack(scores)


def agreement(
    maps: dict[str, Float[Tensor, "batch ..."]], valid: Bool[Tensor, "batch ..."] | None = None
) -> tuple[tuple[str, ...], Float[Tensor, "method method"]]:
    """How far methods order the parts of the same inputs alike.

    Args:
        maps: Maps of the same inputs, of one shape, by the name of the method.
        valid: False at values to leave aside.

    Returns:
        The names, and their rank correlations averaged over samples: symmetric, 1 on the diagonal.

    Raises:
        InputError: As :func:`rank_correlation`, or if there is no map.
    """
    if not maps:
        raise InputError("Expected at least one map, found none.")
    names = tuple(maps)
    table = torch.ones(len(names), len(names), dtype=torch.float64)
    for row, one in enumerate(names):
        for column, other in enumerate(names[:row]):
            score = rank_correlation(maps[one], maps[other], valid).mean()
            table[row, column] = table[column, row] = score
    return names, table


def average_precision(
    scores: Float[Tensor, " item"], truth: Bool[Tensor, " item"], *, interpolate: bool = False
) -> Float[Tensor, ""]:
    """Area under the curve of precision over recall.

    Items of equal score pass the threshold together, so the order among them does not matter.

    Args:
        scores: Any finite values.
        truth: Which items are to be found; at least one.
        interpolate: False sums precision times the step in recall (scikit-learn's ``average_precision_score``); true
            joins the points by straight lines (``auc`` of ``precision_recall_curve``, as ERASER does), which is
            optimistic.

    Returns:
        float64 between 0 and 1; a constant score gets the share of true items (with lines: half of 1 plus that).
    """
    ordered, places = scores.sort(dim=-1, descending=True, stable=True)
    hits = truth[places].double().cumsum(0)
    last_of_equals = torch.ones_like(ordered, dtype=torch.bool)
    last_of_equals[:-1] = ordered[1:] != ordered[:-1]
    found = torch.arange(1, len(ordered) + 1, device=scores.device).double()[last_of_equals]
    hits = hits[last_of_equals]
    precision, recall = hits / found, hits / hits[-1]
    start = recall.new_zeros(1)
    steps = torch.diff(recall, prepend=start)
    if interpolate:
        # The curve begins at recall 0 with precision 1, by convention.
        precision = (precision + torch.cat([start + 1, precision[:-1]])) / 2
    return (steps * precision).sum()


def check_finite(maps: Tensor) -> None:
    """Refuse a map that orders nothing.

    Args:
        maps: Attributions.

    Raises:
        InputError: If a value is NaN or infinite, or there is none.
    """
    if maps.numel() == 0:
        raise InputError(f"Expected maps with values, found shape {tuple(maps.shape)}.")
    if not torch.isfinite(maps).all():
        wrong = (~torch.isfinite(maps)).flatten(1).any(1) if maps.dim() > 1 else ~torch.isfinite(maps)
        raise InputError(
            f"The map of sample {int(wrong.nonzero()[0])} holds NaN or infinite values, so it has no order. "
            "Explain that sample again, or leave it out."
        )


def _pair(first: Tensor, second: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if first.shape != second.shape or first.dim() < 2:
        raise InputError(
            f"Expected two maps of one shape, batch first, found {tuple(first.shape)} and {tuple(second.shape)}."
        )
    check_finite(first)
    check_finite(second)
    if valid is None:
        valid = torch.ones_like(first, dtype=torch.bool)
    if valid.shape != first.shape:
        raise InputError(f"valid has shape {tuple(valid.shape)}, the maps {tuple(first.shape)}; they must be the same.")
    if not valid.flatten(1).any(1).all():
        raise InputError("A sample has no valid value to compare.")
    return first.detach().flatten(1), second.detach().flatten(1), valid.flatten(1).bool()
