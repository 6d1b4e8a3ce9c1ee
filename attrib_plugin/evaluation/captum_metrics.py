"""Captum's own metrics, called with what suits the input: noise for images, whole tokens for text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import captum.metrics
import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation.ranking import check_finite
from attrib_plugin.evaluation.scoring import only_tensor, unwrap
from attrib_plugin.evaluation.token_perturbation import TokenPerturbation

if TYPE_CHECKING:
    from jaxtyping import Float

Disturbance = float | TokenPerturbation
"""Standard deviation of Gaussian noise on floating inputs, or a token perturbation."""


def infidelity(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any,
    disturbance: Disturbance,
    *,
    additional_forward_args: Any = None,
    target: Any = None,
    n_perturb_samples: int = 10,
    normalize: bool = True,
    **options: Any,
) -> Float[Tensor, " batch"]:
    """How badly the relevance of what was disturbed predicts the change of the score: ``captum.metrics.infidelity``.

    Args:
        forward_func: The model, or a function around it; outputs of transformers are unwrapped.
        inputs: Images, embeddings or token ids.
        attributions: A map in the shape of the inputs.
        disturbance: Standard deviation of the noise, in the units of floating inputs; for token ids
            :class:`TokenMask` or :class:`TokenSwap`.
        additional_forward_args: Captum's further arguments.
        target: Captum's target.
        n_perturb_samples: Number of disturbances of each sample. Noise follows torch's global seed.
        normalize: Scale the relevance to fit best, since relevance from attention has no fixed scale.
        **options: Further arguments of Captum's function.

    Returns:
        Mean squared error of every sample; low is good, 0 for a constant-gradient model and its gradient. A map of
        zeros gets the mean square of the change.

    Raises:
        InputError: If the map is not finite or not of the input's shape, or the disturbance does not suit the input.

    Reference:
        Yeh et al. 2019, arXiv:1901.09392.
    """
    tensor, maps = only_tensor(inputs, "inputs"), only_tensor(attributions, "attributions")
    _check_disturbance(tensor, disturbance)
    check_finite(maps)
    if maps.shape != tensor.shape:
        raise InputError(
            f"Captum's infidelity wants a map in the shape of the inputs {tuple(tensor.shape)}, found "
            f"{tuple(maps.shape)}. Take it with return_input_shape=True, the default."
        )

    def scores(*arguments: Any) -> Tensor:
        return unwrap(forward_func(*arguments))

    def add_noise(given: Tensor) -> tuple[Tensor, Tensor]:
        change = float(disturbance) * torch.randn_like(given)  # type: ignore[arg-type]  # a number here
        return change, given - change

    perturb = disturbance.for_infidelity if isinstance(disturbance, TokenPerturbation) else add_noise
    result: Tensor = captum.metrics.infidelity(
        scores,
        perturb,
        tensor,
        maps.to(tensor.dtype) if tensor.is_floating_point() else maps,
        additional_forward_args=additional_forward_args,
        target=target,
        n_perturb_samples=n_perturb_samples,
        normalize=normalize,
        **options,
    )
    return result.detach()


def max_sensitivity(
    explanation_func: Callable[..., Any],
    inputs: Any,
    disturbance: Disturbance,
    *,
    n_perturb_samples: int = 10,
    **kwargs: Any,
) -> Float[Tensor, " batch"]:
    """The largest relative change of the map under small disturbances: ``captum.metrics.sensitivity_max``.

    Args:
        explanation_func: ``method.attribute``.
        inputs: Images, embeddings or token ids.
        disturbance: For floating inputs the radius of Captum's uniform noise, in the units of the input (not a
            standard deviation); for token ids :class:`TokenSwap` or :class:`TokenMask`.
        n_perturb_samples: Number of disturbances of each sample. Noise follows torch's global seed.
        **kwargs: Further arguments of ``explanation_func`` and of Captum's function. Give a target.

    Returns:
        ``max |map' - map| / |map|`` of every sample; low is good, 0 for a map that never changes, useful or not.

    Raises:
        InputError: If the disturbance does not suit the input.

    Reference:
        Yeh et al. 2019, arXiv:1901.09392.
    """
    tensor = only_tensor(inputs, "inputs")
    _check_disturbance(tensor, disturbance)
    if isinstance(disturbance, TokenPerturbation):
        how: dict[str, Any] = {"perturb_func": disturbance.for_sensitivity}
    else:
        how = {"perturb_radius": float(disturbance)}
    result: Tensor = captum.metrics.sensitivity_max(
        explanation_func, tensor, n_perturb_samples=n_perturb_samples, **how, **kwargs
    )
    return result.detach()


def _check_disturbance(inputs: Tensor, disturbance: Disturbance) -> None:
    if inputs.is_floating_point() == isinstance(disturbance, TokenPerturbation):
        wanted = (
            "a number for floating inputs" if inputs.is_floating_point() else "a TokenMask or TokenSwap for token ids"
        )
        raise InputError(f"Expected {wanted}, found {type(disturbance).__name__} for {inputs.dtype}.")
