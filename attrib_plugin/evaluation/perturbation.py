"""Curves of the model's score while units are removed in the order of a map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation.ranking import Order
from attrib_plugin.evaluation.scoring import ModelScore, Score, only_tensor
from attrib_plugin.evaluation.units import Units, divide

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class PerturbationCurve:
    """The score of every sample at every step.

    Attributes:
        shares: Share of the sample's units that is removed, or inserted, at each step, 0 to 1.
        scores: The model's score there, in the units of ``score``.
    """

    shares: Float[Tensor, "batch step"]
    scores: Float[Tensor, "batch step"]

    def area(self) -> Float[Tensor, " batch"]:
        """Area under each curve by the trapezoid rule over the share: the mean score, where shares run from 0 to 1."""
        return torch.trapezoid(self.scores, self.shares, dim=-1)


class Perturbation:
    """A batch, its units and its model, ready to remove any number of units from any sample.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        baselines: As in :func:`perturbation_curve`.
        additional_forward_args: As in :func:`perturbation_curve`.
        target: As in :func:`perturbation_curve`.
        feature_mask: As in :func:`perturbation_curve`.
        score: As in :func:`perturbation_curve`.
        forward_kwargs: As in :func:`perturbation_curve`.
        internal_batch_size: As in :func:`perturbation_curve`.

    Raises:
        InputError: As in :func:`perturbation_curve`.
    """

    def __init__(  # noqa: PLR0917  # the order of Captum's metrics
        self,
        forward_func: Callable[..., Any],
        inputs: Any,
        attributions: Any,
        baselines: Any = None,
        additional_forward_args: Any = None,
        target: Any = None,
        *,
        feature_mask: Tensor | None = None,
        score: Score = "logit",
        forward_kwargs: Mapping[str, Any] | None = None,
        internal_batch_size: int | None = None,
    ) -> None:
        self._inputs = only_tensor(inputs, "inputs").detach()
        self.units: Units = divide(self._inputs, only_tensor(attributions, "attributions"), feature_mask)
        self._fill = _filled(self._inputs, baselines)
        self._batch_size = internal_batch_size or len(self._inputs)
        self._model = ModelScore(
            forward_func,
            self._inputs,
            additional_forward_args=additional_forward_args,
            forward_kwargs=forward_kwargs,
            target=target,
            score=score,
            batch_size=self._batch_size,
        )

    @property
    def original(self) -> Float[Tensor, " batch"]:
        """Scores of the inputs as they are."""
        return self._model.original

    def scores(
        self, counts: Int[Tensor, "batch step"], order: Order, *, keep: bool = False
    ) -> Float[Tensor, "batch step"]:
        """Scores after the first units of an order were removed, or after all others were.

        Args:
            counts: How many units, for every sample and step.
            order: Which end of the relevance comes first.
            keep: Keep the first units and remove the others, instead of removing the first.

        Returns:
            Scores, float64.
        """
        units = self.units.counts[:, None]
        removed = units - counts if keep else counts
        found = torch.where(removed <= 0, self.original[:, None], torch.nan)
        if (removed >= units).any():
            found = torch.where(removed >= units, self._empty[:, None], found)
        samples, steps = ((removed > 0) & (removed < units)).nonzero(as_tuple=True)
        ranks = self.units.element_ranks(order)
        for part in torch.split(torch.arange(len(samples), device=counts.device), self._batch_size):
            who = samples[part]
            limit = counts[who, steps[part]].reshape(-1, *[1] * (self._inputs.dim() - 1))
            first = ranks[who] < limit
            gone = ~first & (self.units.index[who] >= 0) if keep else first
            found[who, steps[part]] = self._without(gone, who)
        return found

    @cached_property
    def _empty(self) -> Float[Tensor, " batch"]:
        """Scores without any unit: where every curve ends, whatever its order."""
        everyone = torch.arange(len(self._inputs), device=self._inputs.device)
        parts = torch.split(everyone, self._batch_size)
        return torch.cat([self._without(self.units.index[who] >= 0, who) for who in parts])

    def _without(self, gone: Tensor, who: Int[Tensor, " copy"]) -> Float[Tensor, " copy"]:
        fill = self._fill if len(self._fill) == 1 else self._fill[who]
        return self._model(torch.where(gone, fill, self._inputs[who]), who)

    def curve(self, steps: int | None, order: Order, *, keep: bool = False) -> PerturbationCurve:
        """A curve from none to all units.

        Args:
            steps: Number of steps; no more than the largest number of units. ``None``: that number.
            order: Which end of the relevance comes first.
            keep: As in :meth:`scores`.

        Returns:
            The curve, of one point more than steps.
        """
        units = self.units.counts
        most = int(units.max())
        if steps is not None and steps < 1:
            raise InputError(f"steps must be at least 1, not {steps}.")
        n_steps = most if steps is None else min(steps, most)
        place = torch.arange(n_steps + 1, device=units.device)
        # Rounded half up in integers, so that no machine rounds otherwise.
        counts = (2 * place * units[:, None] + n_steps) // (2 * n_steps)
        return PerturbationCurve(counts.double() / units[:, None], self.scores(counts, order, keep=keep))


def perturbation_curve(  # noqa: PLR0917  # the order of Captum's metrics
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    *,
    order: Order = "most",
    insert: bool = False,
    steps: int | None = None,
    feature_mask: Tensor | None = None,
    score: Score = "logit",
    forward_kwargs: Mapping[str, Any] | None = None,
    internal_batch_size: int | None = None,
) -> PerturbationCurve:
    """The model's score while units are removed one after the other.

    A unit is a pixel (all channels as one), a patch, a token, or whatever ``feature_mask`` says. Units of equal
    relevance are removed in the order in which they stand, whichever end comes first.

    Cost: one forward pass for each sample and point of the curve, without gradients.

    Args:
        forward_func: The model, or a function around it; outputs of transformers are unwrapped.
        inputs: Images (B,C,H,W), embeddings (B,T,D), token ids (B,T) or any other (B,...); or a tuple with one.
        attributions: The map: shaped as ``inputs``, one channel (B,1,H,W), one value a token (B,T), or a patch map
            (B,1,rows,columns), whose cells then are the units.
        baselines: What replaces a removed unit: a number or a tensor broadcastable to ``inputs``, such as the mean of
            the data (1,C,1,1), or the id of the mask token. ``None`` is 0, for floating inputs only.
        additional_forward_args: Further positional arguments of the forward function.
        target: Which output is scored, in any of Captum's forms; ``None`` is the class predicted for the input as it
            is, or the value itself for one output a sample.
        order: ``"most"``: most influential first (MIF); ``"least"``: least influential first (LIF).
        insert: Begin with everything removed and put the units back in this order.
        steps: Number of steps, each of as nearly the same number of units as possible; ``None`` is one unit a step.
        feature_mask: Unit of every element of ``inputs``, as for Captum's ``FeatureAblation``, negative where it is
            never removed; see :func:`patch_units` and :func:`token_units`.
        score: What is read off the output: ``"logit"`` (the output itself), ``"probability"`` (softmax),
            ``"log_probability"``, ``"correct"`` (1 if the target is the predicted class, else 0), or a function.
        forward_kwargs: Keyword arguments of the forward function, such as ``attention_mask``.
        internal_batch_size: Largest number of samples run at once; ``None`` is as many as ``inputs`` has.

    Returns:
        The curve.

    Raises:
        InputError: If shapes do not fit, the map has NaN or infinite values, a sample has no unit that may be
            removed, or an option is unknown. A constant map is no error: its units go in the order in which they stand.
        TargetError: If the target does not select one score a sample.

    Reference:
        Samek et al. 2017, arXiv:1509.06321 (removal in the order of a map); Petsiuk et al. 2018, arXiv:1806.07421.
    """
    perturbation = Perturbation(
        forward_func,
        inputs,
        attributions,
        baselines,
        additional_forward_args,
        target,
        feature_mask=feature_mask,
        score=score,
        forward_kwargs=forward_kwargs,
        internal_batch_size=internal_batch_size,
    )
    return perturbation.curve(steps, order, keep=insert)


def counts_of_shares(
    units: Int[Tensor, " batch"], shares: Sequence[float], *, at_least: int, half_up: bool
) -> Int[Tensor, "batch share"]:
    """How many units a share is.

    Args:
        units: Number of units of every sample.
        shares: Above 0 and up to 1.
        at_least: Smallest count.
        half_up: Round to the nearest count, a half upwards; otherwise cut the fraction off.

    Returns:
        Counts.

    Raises:
        InputError: If there is no share, or one is outside its range.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(f"Expected shares above 0 and up to 1, found {tuple(shares)}.")
    exact = units[:, None] * torch.tensor(shares, dtype=torch.float64, device=units.device)
    # 0.3 * 10 is a little below 3 in binary: a count must not fall for that.
    return torch.floor(exact + (0.5 if half_up else 0.0) + 1e-9).long().clamp(min=at_least)


def _filled(inputs: Tensor, baselines: Any) -> Tensor:
    if isinstance(baselines, tuple) and len(baselines) == 1:
        baselines = baselines[0]
    if baselines is None:
        if not inputs.is_floating_point():
            raise InputError(
                f"Expected baselines for {inputs.dtype} inputs, because id 0 is a token like any other. Give the id of "
                "the mask token."
            )
        baselines = 0
    fill = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device).detach()
    try:
        torch.broadcast_to(fill, inputs.shape)
    except RuntimeError as error:
        raise InputError(f"Baselines of shape {tuple(fill.shape)} do not fit inputs {tuple(inputs.shape)}.") from error
    return fill.reshape((1,) * (inputs.dim() - fill.dim()) + tuple(fill.shape))
