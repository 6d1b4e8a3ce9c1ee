"""The rules: what a kind of operation does with relevance. Values, to be laid over operations by a composite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from attrib_plugin.functional.lrp import (
    EXACT,
    LinearMap,
    MaskSum,
    Stabilizer,
    alpha_beta_rule,
    box_rule,
    conserving_sum_rule,
    epsilon_rule,
    gamma_rule,
    halves,
    magnitude_mean_rule,
    product_rules_attention,
    residual_gamma_rule,
    split_z_plus_rule,
    sum_rule,
    unbroadcast,
    z_plus_rule,
)
from attrib_plugin.propagation.step import Relevances, Step


@dataclass(frozen=True)
class Identity:
    """Relevance passes as it is, to each operand that carries any in equal parts."""

    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the output out in equal parts."""
        share = 1.0 / sum(step.carries)
        return tuple(
            unbroadcast(self.divide.damp(share * relevance, value), value) if carried else None
            for value, carried in zip(step.values, step.carries, strict=True)
        )


@dataclass(frozen=True)
class Routed:
    """Relevance goes where the values came from, as for any operation that only moves values."""

    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Put the relevance of the output back in the place of its input."""
        pairs = zip(step.values, step.gradients(relevance), strict=True)
        return tuple(None if moved is None else self.divide.damp(moved, value) for value, moved in pairs)


@dataclass(frozen=True)
class Block:
    """No relevance passes."""

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Zero for every operand."""
        return tuple(
            torch.zeros_like(value) if carried else None
            for value, carried in zip(step.values, step.carries, strict=True)
        )


@dataclass(frozen=True)
class Epsilon:
    """In proportion to contributions: input times the gradient of a stabilised share.

    For linear layers the ε-rule, for a product of two activations the uniform rule (with ``share`` a half), for
    softmax and for norms with a fixed scale the rules of AttnLRP.

    Attributes:
        share: Factor on the result where every operand carries relevance.
        divide: The stabiliser.
    """

    share: float = 1.0
    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the output out by contributions."""
        if step.linear is not None:
            return _of_rows(step, relevance, lambda x, linear, r, z: epsilon_rule(x, linear, r, z, divide=self.divide))
        found = step.contributions(relevance, self.divide)
        # Beside a constant, an operand has all of the relevance.
        share = self.share if all(step.carries) else 1.0
        return tuple(None if one is None else share * one for one in found)


@dataclass(frozen=True)
class ZPlus:
    """Positive contributions only (alpha 1, beta 0); the bias is ignored.

    Attributes:
        divide: The stabiliser.
        joint: Whether products of two positive and of two negative factors share one denominator. The authors' LRP
            baselines normalise them apart.
    """

    divide: Stabilizer = EXACT
    joint: bool = True

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the output out by positive contributions."""
        if not self.joint:
            return _of_rows(
                step, relevance, lambda x, linear, r, _: split_z_plus_rule(x, linear, r, divide=self.divide)
            )
        bias = step.options.get("bias")
        return _of_rows(
            step, relevance, lambda x, linear, r, z: z_plus_rule(x, linear, r, divide=self.divide, output=z, bias=bias)
        )


@dataclass(frozen=True)
class AlphaBeta:
    """Positive contributions weighted with alpha, negative ones with minus beta."""

    alpha: float = 2.0
    beta: float = 1.0
    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the output out by contributions of either sign."""
        rule = partial(alpha_beta_rule, alpha=self.alpha, beta=self.beta, divide=self.divide)
        return _of_rows(step, relevance, lambda x, linear, r, _: rule(x, linear, r))


@dataclass(frozen=True)
class Gamma:
    """Contributions that agree with the sign of their output count (1 + gamma) times."""

    gamma: float
    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the output out, agreeing contributions first."""
        rule = partial(gamma_rule, gamma=self.gamma, divide=self.divide)
        return _of_rows(step, relevance, rule)


@dataclass(frozen=True)
class PixelBox:
    """The zᴮ rule of a first layer over pixels; the bounds are each image's own lowest and highest value."""

    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the output out between the bounds."""
        pixels = step.values[0]
        axes = tuple(range(1, pixels.dim()))
        low, high = pixels.amin(axes, keepdim=True), pixels.amax(axes, keepdim=True)
        return (box_rule(pixels, _linear(step), relevance, low, high, divide=self.divide),)


@dataclass(frozen=True)
class Summands:
    """How a sum or difference of two tensors shares its relevance out.

    Attributes:
        how: ``"proportional"`` (z-rule), ``"conserving"`` (rescaled to absolute sums) or ``"gamma"`` (bounded).
        gamma: Of the bounded rule.
        divide: The stabiliser.
    """

    how: Literal["proportional", "conserving", "gamma"] = "proportional"
    gamma: float = 1.0
    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the sum out between its summands."""
        first, second = step.options["summands"](*step.values)
        found: tuple[Tensor, ...]
        if self.how == "conserving":
            found = step.samples.run(partial(conserving_sum_rule, divide=self.divide), first, second, relevance)
        elif self.how == "gamma":
            found = residual_gamma_rule(first, second, relevance, gamma=self.gamma, divide=self.divide)
        else:
            found = sum_rule(first, second, relevance, divide=self.divide)
        return _of_carriers(step, found)


@dataclass(frozen=True)
class Magnitude:
    """A mean shares its relevance out by the size of its terms."""

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Share the relevance of the mean out."""
        axes = step.options.get("axes")
        if axes is None:  # pooling over a window; every place of an input belongs to its mean
            return step.contributions(relevance, EXACT)
        kept = relevance if relevance.dim() == step.inputs[0].dim() else _keep_axes(relevance, axes, step.inputs[0])
        return (magnitude_mean_rule(step.values[0], kept),)


@dataclass(frozen=True)
class ProductAttention:
    """Softmax attention as two matrix products with a half of the relevance for each operand; softmax passes it on.

    Attributes:
        divide: The stabiliser.
        mask_sum: As of :func:`~attrib_plugin.functional.lrp.product_rules_attention`.
    """

    divide: Stabilizer = EXACT
    mask_sum: MaskSum = "ignored"

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Relevance of queries, keys and values."""
        query, key, value = step.values
        found = product_rules_attention(
            query,
            key,
            value,
            step.result,
            relevance,
            divide=self.divide,
            mask_sum=self.mask_sum,
            carries=step.carries,
            **step.options,
        )
        return tuple(one if carried else None for one, carried in zip(found, step.carries, strict=True))


@dataclass(frozen=True)
class SharedAttention:
    """Softmax attention by input times gradient of the fused kernel, with a half of each product for either operand.

    Attributes:
        constant_probabilities: Whether probabilities are constants (CP-LRP), so that values have all of the relevance.
        divide: The stabiliser.
    """

    constant_probabilities: bool = False
    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Relevance of queries, keys and values."""
        found = step.contributions(relevance, self.divide)
        query, key, value = step.carries
        of_probs, of_value = (0.0, 1.0) if self.constant_probabilities else halves(query or key, value)
        of_query, of_key = halves(query, key)
        shares = (of_probs * of_query, of_probs * of_key, of_value)
        return tuple(None if one is None else share * one for one, share in zip(found, shares, strict=True))


@dataclass(frozen=True)
class FixedScaleNorm:
    """A norm whose scale is a constant: the mean is taken off by the chain rule, the bias keeps its share."""

    divide: Stabilizer = EXACT

    def __call__(self, step: Step, relevance: Tensor) -> Relevances:
        """Relevance of the input."""
        if not step.options["centred"]:
            return (relevance,)  # without a mean or a bias, input times gradient is what came in
        value, result = step.values[0], step.result
        message = self.divide(relevance, result)
        weight, axes = step.options["weight"], step.options["axes"]
        spread = value - value.mean(axes, keepdim=True)
        scale = (spread.square().mean(axes, keepdim=True) + step.options["eps"]).rsqrt()
        message = scale * (message if weight is None else message * weight)
        return (value * (message - message.mean(axes, keepdim=True)),)


@dataclass(frozen=True)
class Fanout:
    """What happens where one tensor is used several times, in implementations that make a rule of it.

    The sum of the uses' relevance is x·Σ(R/x), which with a stabiliser is a little less than ΣR.

    Attributes:
        divide: The stabiliser.
        among_linear: Whether several linear layers on one tensor (query, key, value) are a fan-out of their own.
    """

    divide: Stabilizer
    among_linear: bool = False


def _of_rows(step: Step, relevance: Tensor, rule: Callable[[Tensor, LinearMap, Tensor, Tensor], Tensor]) -> Relevances:
    """A rule of a linear map, from input, map, relevance and output, on the rows that have relevance."""
    linear, inputs, output = _linear(step), step.values[0], step.result
    rows = step.few_rows(relevance)
    if rows is None:
        return (rule(inputs, linear, relevance, output),)
    few = (tensor.flatten(0, -2)[rows] for tensor in (inputs, relevance, output))
    some_inputs, some_relevance, some_output = few
    return (step.scattered(rows, rule(some_inputs, linear, some_relevance, some_output)),)


def _linear(step: Step) -> LinearMap:
    if step.linear is None:
        raise ValueError(f"The rule for {step.kind} operations needs a linear map.")
    weight = step.linear.weight
    if weight.dtype in (torch.float16, torch.bfloat16):
        return replace(step.linear, weight=weight.float())
    return step.linear


def _of_carriers(step: Step, found: Sequence[Tensor]) -> Relevances:
    if len(step.inputs) == 1:  # the other summand is a number
        return (unbroadcast(found[step.options["position"]], step.inputs[0]),)
    return tuple(
        unbroadcast(one, value) if carried else None
        for one, value, carried in zip(found, step.inputs, step.carries, strict=True)
    )


def _keep_axes(relevance: Tensor, axes: tuple[int, ...], inputs: Tensor) -> Tensor:
    for axis in sorted(axis % inputs.dim() for axis in axes):
        relevance = relevance.unsqueeze(axis)
    return relevance
