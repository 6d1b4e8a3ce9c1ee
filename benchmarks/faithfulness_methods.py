"""The rows of ``faithfulness.py``: every method of the package, methods of Captum, and baselines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import captum.attr
import torch
import torch.nn.functional as F
from faithfulness_task import SEED, Task
from torch import Tensor

from attrib_plugin import methods

BATCH = 128
NEGATED = "GradientRollout, negated"
BASELINES = ("random", "input alone", "occlusion", "truth", NEGATED)
COMPOSITES = {"attnlrp_gamma": "gamma", "reslrp": "residual"}
Explain = Callable[..., Tensor]


def explainers() -> dict[str, Callable[[Task], Explain]]:
    """By name, what makes a function from (inputs, target, arguments) to one value a unit."""
    found: dict[str, Callable[[Task], Explain]] = {}
    for name in methods.__all__:
        method = getattr(methods, name)
        found[name] = partial(_ours, method, {})
        sign = inspect.signature(method.__init__).parameters.get("sign")
        if sign is not None and sign.default != "signed":
            found[f"{name}, signed"] = partial(_ours, method, {"sign": "signed"})
    for composite, word in COMPOSITES.items():
        found[f"AttentionAwareRelevance, {word}"] = partial(_composite, composite)
    for name in ("Saliency", "InputXGradient", "IntegratedGradients"):
        found[f"Captum {name}"] = partial(_captum, getattr(captum.attr, name))
    found["Captum LayerGradCam"] = _captum_grad_cam
    found[NEGATED] = _negated
    found["random"] = _random
    found["input alone"] = _input_alone
    found["occlusion"] = _occlusion
    found["truth"] = _truth
    return found


def code_of(name: str) -> str | None:
    """The file of the method behind a row, where it is one of the package."""
    own = getattr(methods, name.partition(",")[0], None)
    return None if own is None else inspect.getfile(own)


def _ours(method: Any, options: dict[str, Any], task: Task) -> Explain:
    attribution = method(task.model, **options)

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        given = {"target": target} if getattr(method, "needs_gradients", True) else {}
        return attribution.attribute(
            inputs,
            additional_forward_args=arguments or None,
            return_input_shape=pixels,
            internal_batch_size=BATCH if small(task) else 4,
            **given,
        ).detach()

    return explain


def _captum(method: Any, task: Task) -> Explain:
    """Gradients of the pixels, summed over the model's patches, or of the word embeddings, summed over their axis."""
    patches = None if task.is_text else _grid(task)

    def forward(given: Tensor, *arguments: Tensor) -> Tensor:
        if task.is_text:
            return task.model(inputs_embeds=given, attention_mask=arguments[0]).logits
        return task.model(given)

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        given = task.model.get_input_embeddings()(inputs).detach() if task.is_text else inputs
        options: dict[str, Any] = {"additional_forward_args": arguments or None}
        if method is captum.attr.IntegratedGradients:
            options |= {"n_steps": task.gradient_steps, "internal_batch_size": BATCH if len(given) < 10 else len(given)}
        native = method(forward).attribute(given.clone().requires_grad_(), target=target, **options).detach()
        if task.is_text:
            return native.sum(-1)
        if pixels:
            return native
        return F.adaptive_avg_pool2d(native.sum(1, keepdim=True), patches)

    return explain


def _composite(name: str, task: Task) -> Explain:
    """Composites for vision transformers."""
    if task.is_text:
        raise NotImplementedError("for images only")
    return _ours(methods.AttentionAwareRelevance, {"composite": name}, task)


def _captum_grad_cam(task: Task) -> Explain:
    """Captum's GradCAM at the convolution that makes the patches: the one layer of the model that it is made for."""
    if task.is_text:
        raise NotImplementedError("for images only")
    layer = captum.attr.LayerGradCam(task.model, task.model.patch_embed.proj)

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        patches = layer.attribute(inputs, target=target, relu_attributions=True).detach()
        return F.interpolate(patches, inputs.shape[2:], mode="bilinear").expand_as(inputs) if pixels else patches

    return explain


def _negated(task: Task) -> Explain:
    if not small(task):
        raise NotImplementedError("the exact negative of GradientRollout by construction; measured on the small models")
    explain = _ours(methods.GradientRollout, {}, task)
    return lambda *args, **options: -explain(*args, **options)


def _random(task: Task) -> Explain:
    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        shape = inputs.shape if pixels or task.is_text else (len(inputs), 1, *_grid(task))
        return torch.rand(shape, generator=generator)

    return explain


def _input_alone(task: Task) -> Explain:
    """How far each patch is from the fill: a map that has never seen the model."""
    if task.is_text:
        raise NotImplementedError("for images only")

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        away = (inputs - torch.as_tensor(task.fill)).abs().mean(1, keepdim=True)
        return away.expand_as(inputs) if pixels else F.adaptive_avg_pool2d(away, _grid(task))

    return explain


def _occlusion(task: Task) -> Explain:
    """Fall of the score when one unit, or a few side by side, is removed alone."""
    if not task.ablated:
        raise NotImplementedError("not run: one pass for every unit of every sample takes too long here")

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        if pixels:
            raise NotImplementedError("occlusion is given by patch only")
        if task.is_text:
            mask = torch.arange(inputs.shape[1]).expand(1, -1)
            values = torch.stack(
                [_ablated(task, inputs, target, arguments, mask == unit) for unit in mask[0].tolist()], -1
            )
            return values.masked_fill(task.feature_mask < 0, 0.0) if len(inputs) == len(task.inputs) else values
        rows, columns = (side // task.ablated for side in _grid(task))
        height, width = inputs.shape[2] // rows, inputs.shape[3] // columns
        values = []
        for unit in range(rows * columns):
            chosen = torch.zeros(1, 1, *inputs.shape[2:], dtype=torch.bool)
            top, left = unit // columns * height, unit % columns * width
            chosen[..., top : top + height, left : left + width] = True
            values.append(_ablated(task, inputs, target, arguments, chosen))
        coarse = torch.stack(values, -1).reshape(-1, 1, rows, columns)
        return coarse.repeat_interleave(task.ablated, 2).repeat_interleave(task.ablated, 3)

    return explain


def _ablated(task: Task, inputs: Tensor, target: Tensor, arguments: tuple[Tensor, ...], chosen: Tensor) -> Tensor:
    fill = torch.as_tensor(task.fill, dtype=inputs.dtype)
    with torch.no_grad():
        without = _logits(task.model(torch.where(chosen, fill, inputs), *arguments))
    return -without.gather(1, torch.as_tensor(target).expand(len(inputs))[:, None]).squeeze(1)


def _truth(task: Task) -> Explain:
    if task.truth is None:
        raise NotImplementedError("not known for this task")
    return lambda *args, **options: task.truth


def small(task: Task) -> bool:
    """Whether a forward pass of the model is cheap."""
    return task.inputs[0].numel() < 10_000


def _grid(task: Task) -> tuple[int, int]:
    size = task.model.patch_embed.patch_size
    return task.inputs.shape[2] // size[0], task.inputs.shape[3] // size[1]


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits
