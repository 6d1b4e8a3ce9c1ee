"""Relevance through linear maps: the rules for fully connected and convolutional layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attrib_plugin.functional.lrp.division import EXACT, Stabilizer


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A map that is linear in its input and in its weight, with its transpose.

    Attributes:
        weight: The weight W.
        transform: ``(x, W)`` to the output without bias.
        transpose: ``(message, W)`` to the adjoint of ``transform`` applied to the message: the shape of x.
        by_row: Whether every row (all axes but the last are rows) is mapped by itself.
    """

    weight: Tensor
    transform: Callable[[Tensor, Tensor], Tensor]
    transpose: Callable[[Tensor, Tensor], Tensor]
    by_row: bool = False

    @staticmethod
    def dense(weight: Tensor) -> LinearMap:
        """The map of a fully connected layer.

        Args:
            weight: ``(out, in)``.

        Returns:
            x ↦ x·Wᵀ.
        """
        return LinearMap(weight, lambda x, w: x @ w.mT, lambda message, w: message @ w, by_row=True)


def epsilon_rule(
    inputs: Tensor, linear: LinearMap, relevance: Tensor, output: Tensor, *, divide: Stabilizer = EXACT
) -> Tensor:
    """Relevance in proportion to contributions: R_i = x_i Σ_j w_ji R_j / z_j.

    Equals gradient times input where ``output`` is what the layer gave, bias included: the bias keeps its share.

    Args:
        inputs: Inputs x.
        linear: The map.
        relevance: Relevance R of the outputs, signed.
        output: Denominators z.
        divide: The stabiliser.

    Returns:
        Relevance of the inputs, signed.

    Reference:
        Bach et al. 2015, equation 58 (ε-rule).
    """
    return inputs * linear.transpose(divide(relevance, output), linear.weight)


def z_plus_rule(
    inputs: Tensor,
    linear: LinearMap,
    relevance: Tensor,
    *,
    divide: Stabilizer = EXACT,
    output: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Relevance in proportion to positive contributions, x⁺w⁺ and x⁻w⁻ together; bias ignored (alpha 1, beta 0).

    Conserves the sum where an output has any positive contribution. Uses ``x⁺W⁺ + x⁻W⁻ = ½(xW + |x||W|)``, so that the
    product that the layer itself has made serves once more: three products instead of six.

    Args:
        inputs: Inputs x, of any sign.
        linear: The map.
        relevance: Relevance of the outputs.
        divide: The stabiliser.
        output: What the layer gave, where it is known.
        bias: The bias that ``output`` has in it, broadcastable to it.

    Returns:
        Relevance of the inputs; none arrives from an output without positive contributions.

    Reference:
        Chefer, Gur and Wolf 2021a, arXiv:2012.09838, equation 2, as in the authors' code, which also counts two
        negative factors as a positive contribution.
    """
    sizes, weights = inputs.abs(), linear.weight.abs()
    size = linear.transform(sizes, weights)
    plain = linear.transform(inputs, linear.weight) if output is None else output
    positive = (plain + size if bias is None else (plain - bias).add_(size)).div_(2)
    # Where negative contributions are all there are, rounding is left, which must not pass for a positive one.
    n_terms = inputs.shape[-1] if linear.by_row else linear.weight[0].numel()
    rounding = (size if bias is None else size.add_(bias.abs())).mul_(4 * n_terms**0.5 * torch.finfo(size.dtype).eps)
    share = divide(relevance, positive.masked_fill_(positive <= rounding, 0.0))
    through = linear.transpose(share, linear.weight).mul_(inputs)
    return through.addcmul_(sizes, linear.transpose(share, weights)).div_(2)


def alpha_beta_rule(
    inputs: Tensor,
    linear: LinearMap,
    relevance: Tensor,
    *,
    alpha: float,
    beta: float,
    divide: Stabilizer = EXACT,
) -> Tensor:
    """Positive contributions weighted with alpha, negative ones with minus beta; bias ignored.

    Args:
        inputs: Inputs x, of any sign.
        linear: The map.
        relevance: Relevance of the outputs.
        alpha: Weight of positive contributions; ``alpha - beta`` is 1 for a rule that conserves.
        beta: Weight of negative contributions, at least 0.
        divide: The stabiliser.

    Returns:
        Relevance of the inputs.

    Reference:
        Bach et al. 2015, equation 60.
    """
    positive = z_plus_rule(inputs, linear, relevance, divide=divide)
    if beta == 0:
        return alpha * positive
    negated = LinearMap(-linear.weight, linear.transform, linear.transpose)
    return alpha * positive - beta * z_plus_rule(inputs, negated, relevance, divide=divide)


def split_z_plus_rule(inputs: Tensor, linear: LinearMap, relevance: Tensor, *, divide: Stabilizer = EXACT) -> Tensor:
    """The two kinds of positive contribution normalised apart; each receives all the relevance.

    Does not conserve: where both kinds occur, relevance doubles. The rule of the authors' LRP baselines
    (``layers_lrp``), here so that they can be reproduced.

    Args:
        inputs: Inputs x, of any sign.
        linear: The map.
        relevance: Relevance of the outputs.
        divide: The stabiliser.

    Returns:
        Relevance of the inputs.
    """
    total = torch.zeros_like(inputs)
    for sign in (1, -1):
        part = (inputs * sign).clamp(min=0) * sign
        weight = (linear.weight * sign).clamp(min=0) * sign
        total += part * linear.transpose(divide(relevance, linear.transform(part, weight)), weight)
    return total


def gamma_rule(
    inputs: Tensor,
    linear: LinearMap,
    relevance: Tensor,
    output: Tensor,
    *,
    gamma: float,
    divide: Stabilizer = EXACT,
) -> Tensor:
    """Contributions with the sign of their output count (1 + gamma) times.

    For inputs of any sign: with a large gamma only contributions that agree with the output's sign are left. The
    bias takes part in the denominator as one more contribution and keeps its share.

    Args:
        inputs: Inputs x.
        linear: The map.
        relevance: Relevance of the outputs, signed.
        output: What the layer gave, bias included.
        gamma: At least 0; 0 is the ε-rule.
        divide: The stabiliser.

    Returns:
        Relevance of the inputs, signed.

    Reference:
        Montavon et al. 2019, section 10.2.3, extended to inputs of both signs.
    """
    weights, sizes = linear.weight.abs(), inputs.abs()
    plain, size = linear.transform(inputs, linear.weight), linear.transform(sizes, weights)
    sign = torch.where(output >= 0, 1.0, -1.0).to(output.dtype)
    bias = output - plain
    agreeing = (plain + sign * size) / 2 + bias * (bias * sign > 0)
    share = divide(relevance, output + gamma * agreeing)
    through = (1 + gamma / 2) * inputs * linear.transpose(share, linear.weight)
    return through + gamma / 2 * sizes * linear.transpose(share * sign, weights)


def box_rule(
    inputs: Tensor, linear: LinearMap, relevance: Tensor, low: Tensor, high: Tensor, *, divide: Stabilizer = EXACT
) -> Tensor:
    """Relevance of inputs that live between two bounds, such as pixels (zᴮ); bias ignored.

    Args:
        inputs: Inputs x.
        linear: The map.
        relevance: Relevance of the outputs.
        low: Lowest value, broadcastable to ``inputs``.
        high: Highest value, broadcastable to ``inputs``.
        divide: The stabiliser.

    Returns:
        Relevance of the inputs, signed.

    Reference:
        Montavon et al. 2017, arXiv:1512.02479, equation 15.
    """
    positive, negative = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
    low, high = low.expand_as(inputs), high.expand_as(inputs)
    total = linear.transform(inputs, linear.weight) - linear.transform(low, positive) - linear.transform(high, negative)
    share = divide(relevance, total)
    return (
        inputs * linear.transpose(share, linear.weight)
        - low * linear.transpose(share, positive)
        - high * linear.transpose(share, negative)
    )
