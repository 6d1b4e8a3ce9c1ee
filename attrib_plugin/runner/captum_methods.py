"""How Captum's own methods are called, so that each explains the same score of the same input as ours.

Captum's classes want a function that returns a tensor, positional arguments, a stated baseline, and features that are
patches or tokens. All that is derived here from what each ``attribute`` takes; no class is listed by name unless it
needs something of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from captum.attr import Attribution, LayerAttribution, LayerGradCam, PerturbationAttribution
from torch import Tensor, nn

from attrib_plugin.errors import InputError
from attrib_plugin.methods.base import unwrap_output
from attrib_plugin.runner.case import Case


class Scores(nn.Module):
    """A model as Captum wants it: one tensor in, further ones by position, a tensor of scores out.

    Args:
        model: The model, left as it is.
        names: Keywords of the further arguments.
        fixed: Keyword arguments that are no tensors.
        as_embeddings: Whether the first argument is passed as ``inputs_embeds``.
    """

    def __init__(
        self, model: nn.Module, names: tuple[str, ...], fixed: Mapping[str, Any], *, as_embeddings: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.fixed = dict(fixed)
        self.as_embeddings = as_embeddings
        # Not by eval(), which would reach into the model.
        self.training = model.training

    def forward(self, inputs: Tensor, *further: Any) -> Tensor:
        """The scores, batch first."""
        keywords = {**self.fixed, **dict(zip(self.names, further, strict=True))}
        if self.as_embeddings:
            return unwrap_output(self.model(inputs_embeds=inputs, **keywords))
        return unwrap_output(self.model(inputs, **keywords))


def run_captum(method: type[Attribution] | Attribution, case: Case, options: Mapping[str, Any]) -> Tensor:
    """Explain a case with a method of Captum.

    Args:
        method: Its class, or an object that the user made.
        case: What is explained.
        options: Arguments of ``attribute`` that win over those derived here.

    Returns:
        What it returned, detached.

    Raises:
        InputError: If the method cannot give a map of tokens or patches.
    """
    kind = method if isinstance(method, type) else type(method)
    embeds = case.is_ids and not issubclass(kind, (LayerAttribution, PerturbationAttribution))
    made = _made(method, kind, case, embeds or not (case.is_image or case.is_ids)) if method is kind else method
    accepted = inspect.signature(made.attribute).parameters
    arguments = {name: value for name, value in _arguments(kind, case, embeds).items() if name in accepted}
    returned = made.attribute(case.embeddings(case.inputs) if embeds else case.inputs, **{**arguments, **options})
    relevance: Any = returned[0] if isinstance(returned, tuple) else returned
    if not isinstance(relevance, Tensor):
        raise InputError(f"{kind.__name__} returned {type(relevance).__name__} and no map.")
    return relevance.detach()


def tensor_keywords(case: Case) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Keyword inputs that are tensors, which Captum repeats with the samples when they are given by position.

    Args:
        case: What is explained.

    Returns:
        Their names and values.
    """
    chosen = {name: value for name, value in case.keywords.items() if isinstance(value, Tensor)}
    return tuple(chosen), tuple(chosen.values())


def _made(method: Any, kind: type[Attribution], case: Case, as_embeddings: bool) -> Attribution:
    names, _ = tensor_keywords(case)
    fixed = {name: value for name, value in case.keywords.items() if name not in names}
    forward = Scores(case.model, names, fixed, as_embeddings=as_embeddings)
    made: Attribution = method(forward, _layer(kind, case)) if issubclass(kind, LayerAttribution) else method(forward)
    return made


def _layer(kind: type[Attribution], case: Case) -> nn.Module:
    if not case.is_image:
        if issubclass(kind, LayerGradCam):
            raise InputError(
                "Captum's LayerGradCam averages over the dimensions of a layer of tokens and sums over the tokens, so "
                "none is left to show. TokenGradCam weighs the tokens."
            )
        return case.embedding_layer()
    convolutions = [module for module in case.model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise InputError(
            f"{kind.__name__} needs a layer with rows and columns, and {type(case.model).__name__} has no convolution. "
            f"Give {kind.__name__}(function, layer) as an object."
        )
    return convolutions[-1]


def _arguments(kind: type[Attribution], case: Case, embeds: bool) -> dict[str, Any]:
    """Everything that some method of Captum takes, for this case."""
    _, values = tensor_keywords(case)
    size = len(case.inputs)
    arguments: dict[str, Any] = {"target": case.target, "additional_forward_args": values or None}
    # Methods that run many changed copies run as many at once as fit.
    arguments["internal_batch_size"] = case.batch_size
    arguments["perturbations_per_eval"] = max(1, case.batch_size // size)
    if (baseline := _baseline(kind, case, embeds)) is not None:
        arguments["baselines"] = baseline
    if case.is_image and case.grid is not None and case.patch_size is not None:
        window: tuple[int, ...] = (case.inputs.shape[1], *case.patch_size)
        arguments |= {"feature_mask": _patch_numbers(case), "sliding_window_shapes": window, "strides": window}
        n_features = case.grid[0] * case.grid[1]
    else:
        window = (1,) if case.is_ids else (1, case.inputs.shape[-1])
        arguments |= {"sliding_window_shapes": window, "strides": window}
        n_features = case.inputs.shape[1]
    if kind.__name__ in ("KernelShap", "Lime"):
        # Fewer samples than features leave the linear model undetermined.
        arguments["n_samples"] = max(25, 3 * n_features)
    return arguments


def _baseline(kind: type[Attribution], case: Case, embeds: bool) -> Tensor | None:
    if case.baseline is not None:
        return case.embeddings(case.baseline) if embeds else case.baseline
    if embeds:
        return case.embeddings(case.inputs).zero_()
    raise InputError(
        f"{kind.__name__} replaces token ids, and there is no id for zero embeddings. Give baseline='mask', "
        "'pad' or an id."
    )


def _patch_numbers(case: Case) -> Tensor:
    """Number of its patch for every pixel (1,1,H,W)."""
    height, width = case.inputs.shape[-2:]
    if case.grid is None or case.patch_size is None:
        raise InputError("The patch grid is not known. Give grid=(rows, columns).")
    rows = (torch.arange(height) // case.patch_size[0]).clamp(max=case.grid[0] - 1)
    columns = (torch.arange(width) // case.patch_size[1]).clamp(max=case.grid[1] - 1)
    return (rows[:, None] * case.grid[1] + columns)[None, None].to(case.inputs.device)
