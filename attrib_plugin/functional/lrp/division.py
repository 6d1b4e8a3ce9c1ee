"""Division by sums that may be zero: the stabilisers of layer-wise relevance propagation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stabilizer:
    """How a share R/z is kept finite where z is small.

    A share of exactly nothing (z = 0) is zero, whatever the numerator.

    Attributes:
        epsilon: Added to the denominator, in units of the activations.
        signed: Whether it is added away from zero. The authors of arXiv:2012.09838 add it as it is, which makes
            small negative sums smaller.
    """

    epsilon: float = 0.0
    signed: bool = True

    def __call__(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Divide.

        Args:
            numerator: Relevance, of any shape.
            denominator: What it is a share of, broadcastable to it.

        Returns:
            The quotient; zero where the denominator is exactly zero.
        """
        if not self.epsilon:
            return (numerator / denominator).masked_fill_(denominator == 0, 0.0)
        if self.signed:
            shifted = denominator.sign().mul_(self.epsilon).add_(denominator)
            return (numerator / shifted).masked_fill_(shifted == 0, 0.0)
        shifted = denominator + self.epsilon
        return (numerator / shifted).masked_fill_((denominator == 0) | (shifted == 0), 0.0)

    def damp(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """What is left of relevance that was divided by an activation and multiplied by it again.

        Args:
            relevance: Relevance of the activation.
            activation: The activation.

        Returns:
            ``activation * (relevance / activation)`` with the stabiliser; the relevance itself without one.
        """
        if not self.epsilon:
            return relevance
        return activation * self(relevance, activation)


EXACT = Stabilizer()
"""No stabiliser: shares are exact, and zero where the sum is zero."""


def per_sample_sum(relevance: Tensor, batch_axis: int = 0) -> Tensor:
    """Sum over everything but the samples, accumulated in float64.

    Args:
        relevance: Any tensor with an axis for samples.
        batch_axis: Which axis that is.

    Returns:
        One number a sample, of the rank of ``relevance``, so that it broadcasts.
    """
    axes = [axis for axis in range(relevance.dim()) if axis != batch_axis]
    # Sums of relevance cancel to a small part of their terms; float32 would lose the sign.
    wide = relevance.sum(axes, keepdim=True, dtype=torch.float64) if axes else relevance.double()
    return wide.to(relevance.dtype if relevance.dtype is torch.float64 else torch.float32)
