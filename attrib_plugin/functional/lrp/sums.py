"""Relevance through sums: residual additions, and means over tokens."""

from __future__ import annotations

from torch import Tensor

from attrib_plugin.functional.lrp.division import EXACT, Stabilizer, per_sample_sum


def sum_rule(first: Tensor, second: Tensor, relevance: Tensor, *, divide: Stabilizer = EXACT) -> tuple[Tensor, Tensor]:
    """Relevance of two summands in proportion to their size: R_a = a·R/(a+b).

    Args:
        first: Summand a, broadcastable to the sum.
        second: Summand b, broadcastable to the sum.
        relevance: Relevance of the sum.
        divide: The stabiliser.

    Returns:
        Relevance of both, in the shape of the sum.

    Reference:
        Bach et al. 2015 (z-rule).
    """
    share = divide(relevance, first + second)
    return first * share, second * share


def conserving_sum_rule(
    first: Tensor, second: Tensor, relevance: Tensor, *, divide: Stabilizer = EXACT, batch_axis: int = 0
) -> tuple[Tensor, Tensor]:
    """The rule in proportion to size, with each branch rescaled to its share of the absolute sums.

    Where the summands cancel, R_a and R_b of :func:`sum_rule` grow large with opposite signs. Rescaled so that
    ``ΣR_a = ΣR·|ΣR_a| / (|ΣR_a| + |ΣR_b|)``, and the same for b, they keep the total of every sample. The sums run over
    one sample; the authors' code sums over the batch too, which couples its samples.

    The rule is discontinuous where a branch's sum crosses zero: the sign of that whole branch flips.

    Args:
        first: Summand a, broadcastable to the sum.
        second: Summand b, broadcastable to the sum.
        relevance: Relevance of the sum.
        divide: The stabiliser.
        batch_axis: Axis of the samples.

    Returns:
        Relevance of both, in the shape of the sum.

    Reference:
        Chefer, Gur and Wolf 2021a, arXiv:2012.09838, equation 9.
    """
    of_first, of_second = sum_rule(first, second, relevance, divide=divide)
    total = per_sample_sum(relevance, batch_axis)
    sums = per_sample_sum(of_first, batch_axis), per_sample_sum(of_second, batch_axis)
    whole = sums[0].abs() + sums[1].abs()
    for of_one, own in zip((of_first, of_second), sums, strict=True):
        of_one.mul_(divide(divide(own.abs(), whole) * total, own).to(of_one.dtype))
    return of_first, of_second


def residual_gamma_rule(
    first: Tensor, second: Tensor, relevance: Tensor, *, gamma: float, divide: Stabilizer = EXACT
) -> tuple[Tensor, Tensor]:
    """Summands that have the sign of their sum count (1 + gamma) times.

    Shares lie between -1/gamma and 1 + 1/gamma however much the summands cancel, and always add up to one.

    Args:
        first: Summand a, broadcastable to the sum.
        second: Summand b, broadcastable to the sum.
        relevance: Relevance of the sum, signed.
        gamma: At least 0; 0 is :func:`sum_rule`.
        divide: The stabiliser.

    Returns:
        Relevance of both, in the shape of the sum.

    Reference:
        The residual rule of ResLRP (2026).
    """
    total = first + second
    weighted = [one * (1 + gamma * (one * total > 0).to(total.dtype)) for one in (first, second)]
    share = divide(relevance, weighted[0] + weighted[1])
    return weighted[0] * share, weighted[1] * share


def magnitude_mean_rule(inputs: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of a mean, shared out by the size of its terms: ``R_i = R·|x_i| / Σ|x|``.

    The proportional rule divides by the mean itself, which is near zero in many channels after a norm.

    Args:
        inputs: The terms.
        relevance: Relevance of the mean, with the axes that were averaged kept at size one.

    Returns:
        Relevance of the terms, of the sign of their mean's.
    """
    sizes = inputs.abs()
    axes = [axis for axis in range(inputs.dim()) if relevance.shape[axis] == 1 and inputs.shape[axis] > 1]
    total = sizes.sum(axes, keepdim=True) if axes else sizes
    return sizes * EXACT(relevance, total)


def unbroadcast(relevance: Tensor, like: Tensor) -> Tensor:
    """Relevance summed over the axes along which an operand was repeated.

    Args:
        relevance: In the shape of the result.
        like: The operand.

    Returns:
        In the shape of the operand.
    """
    return relevance if relevance.shape == like.shape else relevance.sum_to_size(like.shape)
