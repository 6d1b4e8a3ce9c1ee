"""Scores read off perturbation curves: deletion, insertion, SRG, AOPC, and Chefer's pixel test.

All functions have the calling convention of Captum's metrics, score every sample on its own, and take any map:

```python
curve = perturbation_curve(model, images, maps, baselines=mean, target=labels)
gain = symmetric_relevance_gain(model, images, maps, baselines=mean, target=labels, steps=100)
score = partial(symmetric_relevance_gain, model, images, baselines=mean, target=labels)  # score(maps)
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attrib_plugin.evaluation.perturbation import (
    Perturbation,
    PerturbationCurve,
    counts_of_shares,
    perturbation_curve,
)
from attrib_plugin.evaluation.ranking import Order
from attrib_plugin.evaluation.scoring import Score

if TYPE_CHECKING:
    from jaxtyping import Float

CHEFER_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def deletion(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    *args: Any,
    score: Score = "probability",
    **options: Any,
) -> Float[Tensor, " batch"]:
    """Area under the score while the most relevant units are removed; low is good.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        *args: ``baselines``, ``additional_forward_args`` and ``target`` of :func:`perturbation_curve`.
        score: As in :func:`perturbation_curve`.
        **options: Further options of :func:`perturbation_curve`.

    Returns:
        The mean score along the way, in the units of ``score``.

    Reference:
        Petsiuk et al. 2018, arXiv:1806.07421 (RISE).
    """
    return perturbation_curve(forward_func, inputs, attributions, *args, score=score, **options).area()


def insertion(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    *args: Any,
    score: Score = "probability",
    **options: Any,
) -> Float[Tensor, " batch"]:
    """Area under the score while the most relevant units are put back into an empty input; high is good.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        *args: ``baselines``, ``additional_forward_args`` and ``target`` of :func:`perturbation_curve`.
        score: As in :func:`perturbation_curve`.
        **options: Further options of :func:`perturbation_curve`.

    Returns:
        The mean score along the way, in the units of ``score``.

    Reference:
        Petsiuk et al. 2018, arXiv:1806.07421 (RISE).
    """
    return perturbation_curve(forward_func, inputs, attributions, *args, score=score, insert=True, **options).area()


def symmetric_relevance_gain(  # noqa: PLR0917  # the order of Captum's metrics
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    *,
    steps: int | None = None,
    **options: Any,
) -> Float[Tensor, " batch"]:
    """How much longer the score lasts when the least relevant units go first: area(LIF) - area(MIF).

    The share of removed units runs from 0 to 1, so the areas are divided by the number of units: SRG is the mean
    difference of the two scores. A map in random order gets 0 on average, a constant map exactly 0, and a negated map
    exactly the negative. As published: unit = the model's own patch or token, fill = mean of the data (images) or
    mask token (text), ``score="logit"`` of the true class, 100 steps.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        baselines: As in :func:`perturbation_curve`.
        additional_forward_args: As in :func:`perturbation_curve`.
        target: As in :func:`perturbation_curve`.
        steps: As in :func:`perturbation_curve`.
        **options: Further options of :func:`perturbation_curve`, without ``order`` and ``insert``.

    Returns:
        The gain of every sample in the units of ``score``; high is good.

    Raises:
        InputError: As :func:`perturbation_curve`.

    Reference:
        Bluecher, Vielhaben and Strodthoff 2024, arXiv:2401.06654.
    """
    perturbation = Perturbation(
        forward_func, inputs, attributions, baselines, additional_forward_args, target, **options
    )
    return perturbation.curve(steps, "least").area() - perturbation.curve(steps, "most").area()


def area_over_perturbation_curve(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    *args: Any,
    score: Score = "probability",
    **options: Any,
) -> Float[Tensor, " batch"]:
    """AOPC: the mean loss of score over the steps of removal, the step of no removal included; high is good.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: As in :func:`perturbation_curve`.
        attributions: As in :func:`perturbation_curve`.
        *args: ``baselines``, ``additional_forward_args`` and ``target`` of :func:`perturbation_curve`.
        score: As in :func:`perturbation_curve`.
        **options: Further options of :func:`perturbation_curve`.

    Returns:
        The mean of ``score(input) - score(input without the first k steps)``, k = 0 ... L.

    Reference:
        Samek et al. 2017, arXiv:1509.06321.
    """
    scores = perturbation_curve(forward_func, inputs, attributions, *args, score=score, **options).scores
    return (scores[:, :1] - scores).mean(-1)


def pixel_accuracy_curve(  # noqa: PLR0917  # the order of Captum's metrics
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    baselines: Any,
    additional_forward_args: Any = None,
    target: Any = None,
    *,
    order: Order = "most",
    shares: Sequence[float] = CHEFER_SHARES,
    **options: Any,
) -> PerturbationCurve:
    """Whether the class is still predicted when 10 to 90 % of the pixels are black: Chefer's perturbation test.

    ``order="most"`` is the positive test (low is good), ``"least"`` the negative one (high is good). A step removes
    the whole-number part of share times pixels. The authors' maps are patch maps enlarged bilinearly; any map in
    pixels is taken. Accuracy is the mean of ``scores`` over samples, its area ``area().mean()``: over the nine points,
    that is over shares 0.1 to 0.9, so that at most 0.8 can be reached. The authors' code prints the nine accuracies and
    does not say how they are integrated; scripts of others add the points 0 and 1.

    Args:
        forward_func: As in :func:`perturbation_curve`.
        inputs: Images (B,C,H,W), normalised as the model wants them.
        attributions: Maps in pixels (B,C,H,W) or (B,1,H,W).
        baselines: Black as the model sees it: :func:`black`.
        additional_forward_args: As in :func:`perturbation_curve`.
        target: True classes (the authors' setting); ``None``: the class predicted for the image as it is.
        order: As in :func:`perturbation_curve`.
        shares: Shares of the pixels to remove, above 0 and up to 1.
        **options: ``score``, ``forward_kwargs`` and ``internal_batch_size`` of :func:`perturbation_curve`.

    Returns:
        The curve, 1 where the target is predicted and 0 elsewhere (``score="correct"``).

    Raises:
        InputError: As :func:`perturbation_curve`, or if a share is outside 0 to 1.

    Reference:
        Chefer, Gur and Wolf 2021a, arXiv:2012.09838, section 4.
    """
    options.setdefault("score", "correct")
    perturbation = Perturbation(
        forward_func, inputs, attributions, baselines, additional_forward_args, target, **options
    )
    counts = counts_of_shares(perturbation.units.counts, shares, at_least=0, half_up=False)
    given = torch.tensor(shares, dtype=torch.float64, device=counts.device)
    return PerturbationCurve(given.expand(len(counts), -1), perturbation.scores(counts, order))


def black(mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "1 channel 1 1"]:
    """Black pixels after normalisation.

    Args:
        mean: Mean of each channel that the model's transform subtracts.
        std: Standard deviation of each channel that it divides by.

    Returns:
        ``-mean / std``, to be given as ``baselines``.
    """
    return (-torch.tensor(mean) / torch.tensor(std)).reshape(1, -1, 1, 1)
