"""The metrics of Quantus, called with our models and maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError, MissingDependencyError
from attrib_plugin.evaluation.ranking import check_finite
from attrib_plugin.evaluation.scoring import only_tensor, unwrap

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int


def quantus_scores(
    metric: str | Callable[..., Any],
    model: nn.Module,
    inputs: Tensor,
    attributions: Tensor | None = None,
    *,
    target: Int[Tensor, " batch"],
    masks: Tensor | None = None,
    explanation_func: Callable[..., Any] | None = None,
    explanation_kwargs: Mapping[str, Any] | None = None,
    softmax: bool = True,
    batch_size: int = 64,
    **options: Any,
) -> Any:
    """Score maps with a metric of Quantus (extra ``quantus``).

    For images; Quantus takes no token ids. With Quantus 0.6 its ``ROAD`` fails on images of three channels.

    Args:
        metric: Name of a class of ``quantus``, such as ``"PixelFlipping"``, or an instance.
        model: The model; outputs of transformers are unwrapped, its training mode is restored.
        inputs: Images (B,C,H,W).
        attributions: Maps in pixels, (B,C,H,W) or (B,1,H,W); ``None`` for metrics that explain anew themselves.
        target: Class of every sample.
        masks: Where the object is (B,1,H,W), for Quantus' localisation metrics.
        explanation_func: ``method.attribute``, for metrics that explain changed inputs, such as ``"MaxSensitivity"``.
            Metrics that change the model hand over a copy of it, which a bound method does not see: give
            :func:`attrib_plugin.evaluation.parameter_randomisation` the preference there.
        explanation_kwargs: Further arguments of ``explanation_func``.
        softmax: Whether Quantus applies a softmax to the model's output.
        batch_size: Largest number of samples run at once.
        **options: Constructor arguments of the metric, where ``metric`` is a name.

    Returns:
        What the metric returns: mostly one number, or one curve, a sample.

    Raises:
        MissingDependencyError: If Quantus is not installed.
        InputError: If there is no such metric, inputs are no images, or a map is not finite.
    """
    try:
        quantus: Any = import_module("quantus")
    except ImportError as error:
        raise MissingDependencyError("quantus", "quantus") from error
    if isinstance(metric, str):
        found: Any = getattr(quantus, metric, None)
        if not isinstance(found, type):
            raise InputError(f"Quantus has no metric {metric!r}. Its metrics: {quantus.AVAILABLE_METRICS}.")
        scorer = found(disable_warnings=True, display_progressbar=False, **options)
    else:
        scorer = metric
    images = only_tensor(inputs, "inputs")
    if images.dim() != 4 or not images.is_floating_point():
        raise InputError(f"Quantus takes images (B, C, H, W), found {images.dtype} {tuple(images.shape)}.")
    maps = None
    if attributions is not None:
        check_finite(attributions)
        maps = _array(attributions)
    modes = {module: module.training for module in model.modules()}
    try:
        return scorer(
            model=_Logits(model).eval(),
            x_batch=_array(images),
            y_batch=_array(target),
            a_batch=maps,
            s_batch=None if masks is None else _array(masks),
            explain_func=_explainer(explanation_func, explanation_kwargs or {}),
            softmax=softmax,
            batch_size=batch_size,
            device=str(images.device),
        )
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Logits(nn.Module):
    """A model that returns its tensor of scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return unwrap(self.model(inputs))


def _explainer(
    explanation_func: Callable[..., Any] | None, keywords: Mapping[str, Any]
) -> Callable[..., np.ndarray[Any, Any]] | None:
    if explanation_func is None:
        return None

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
        images = torch.as_tensor(inputs, dtype=torch.get_default_dtype())
        classes = torch.as_tensor(targets).long()
        return _array(only_tensor(explanation_func(images, target=classes, **keywords), "the explanation"))

    return explain


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array
