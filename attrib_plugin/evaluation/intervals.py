"""Bootstrap intervals of a mean over samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from attrib_plugin.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Interval(NamedTuple):
    """A mean and where it may lie.

    Attributes:
        mean: Mean of the values.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def mean_interval(
    values: Float[Tensor, " sample"],
    *,
    groups: Int[Tensor, " sample"] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of scores and its percentile bootstrap interval.

    For two methods scored on the same samples, give the differences: their interval is far narrower than the two
    intervals suggest.

    Args:
        values: One score a sample, finite.
        groups: Number of the group of every sample. Samples of one image, asked for several classes, are not
            independent; with the number of the image here they are drawn together, which gives the honest, mostly wider
            interval. ``None``: every sample on its own.
        level: Share of the resampled means that lies inside.
        draws: Number of resamples.
        seed: Of the resamples.

    Returns:
        Mean, lower and upper end, in the units of the scores.

    Raises:
        InputError: If there is no value, one is not finite, ``groups`` has another length, or ``level`` is not between
            0 and 1.
    """
    values = values.detach().double().flatten().cpu()
    if not len(values) or not torch.isfinite(values).all():
        raise InputError(f"Expected finite scores, at least one, found {len(values)} of which some may be NaN.")
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, not {level}.")
    sums, sizes = _by_group(values, groups)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(sums), (draws, len(sums)), generator=generator)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = (sums[picks].sum(1) / sizes[picks].sum(1)).quantile(ends).tolist()
    return Interval(float(values.mean()), low, high)


def _by_group(values: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum of the values and number of samples of every group."""
    if groups is None:
        return values, torch.ones_like(values)
    if len(groups) != len(values):
        raise InputError(f"Expected the group of each of {len(values)} samples, found {len(groups)}.")
    groups = groups.flatten().cpu()
    names = sorted(set(groups.tolist()))
    places = torch.searchsorted(torch.tensor(names), groups)
    empty = values.new_zeros(len(names))
    return empty.scatter_add(0, places, values), empty.scatter_add(0, places, torch.ones_like(values))
