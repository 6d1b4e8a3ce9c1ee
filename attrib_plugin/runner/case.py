"""One batch with all that any method needs to explain it, and maps of any method on one common grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError, TargetError
from attrib_plugin.families import Member, find_member
from attrib_plugin.methods.base import unwrap_output
from attrib_plugin.postprocessing import grid_to_pixels, pixels_to_grid

Baseline = str | int | float | Tensor | None


@dataclass(frozen=True, eq=False)
class Case:
    """A batch and its model.

    Attributes:
        model: The model, unmodified.
        inputs: Token ids (B,T), images (B,C,H,W) or embeddings (B,T,D).
        keywords: Keyword inputs of the model.
        target: Class explained for each sample; ``None`` for a model with one output a sample.
        baseline: What stands for absence: ids (B,T), or values of the shape of ``inputs``; ``None`` for ids where it
            is given in embeddings only.
        baseline_name: The same in words.
        options: ``readout``, ``grid`` and ``prefix_tokens`` for methods of this package.
        grid: Rows and columns of patches; ``None`` for text.
        patch_size: Height and width of a patch in pixels; ``None`` for text.
        prefix_tokens: Leading tokens that are no patches.
        batch_size: Largest number of samples that methods with many passes run at once.
    """

    model: nn.Module
    inputs: Tensor
    keywords: Mapping[str, Any]
    target: Tensor | None
    baseline: Tensor | None
    baseline_name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[int, int] | None = None
    patch_size: tuple[int, int] | None = None
    prefix_tokens: int = 0
    batch_size: int = 16

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images."""
        return self.inputs.dim() == 4

    @property
    def is_ids(self) -> bool:
        """Whether the inputs are token ids."""
        return not self.inputs.is_floating_point()

    def embeddings(self, ids: Tensor) -> Tensor:
        """Input embeddings of ids.

        Args:
            ids: Token ids (B,T).

        Returns:
            (B,T,D), without a graph.

        Raises:
            InputError: If the model does not say where its embeddings are.
        """
        embedded: Tensor = self.embedding_layer()(ids)
        return embedded.detach()

    def embedding_layer(self) -> nn.Module:
        """The module that turns ids into embeddings.

        Returns:
            The module.

        Raises:
            InputError: If the model does not say which it is.
        """
        find = getattr(self.model, "get_input_embeddings", None)
        layer = find() if callable(find) else None
        if not isinstance(layer, nn.Module):
            raise InputError(
                f"{type(self.model).__name__} has no get_input_embeddings(), so its embeddings are not known. Give "
                "the method as an instance with its own layer, or as a function."
            )
        return layer

    def common_map(self, raw: Any) -> tuple[Tensor, Tensor]:
        """A method's map, whatever its shape, on the common grid and in the size of the input.

        Args:
            raw: What the method returned: one value a token, patch or pixel, with or without channels or dimensions.

        Returns:
            One value a token (B,T) or patch (B,1,rows,columns), and one a token (B,T) or pixel (B,H,W), both float32 or
            float64 on the CPU. Channels and dimensions are summed, pixels of a patch too; patches are copied to pixels.

        Raises:
            InputError: If the map has another shape, or is not finite.
        """
        relevance = raw[0] if isinstance(raw, tuple) and len(raw) == 1 else raw
        if not isinstance(relevance, Tensor):
            raise InputError(f"Expected a map as a tensor, found {type(raw).__name__}.")
        relevance = relevance.detach().cpu()
        relevance = relevance if relevance.dtype in (torch.float32, torch.float64) else relevance.float()
        if not torch.isfinite(relevance).all():
            raise InputError(f"The map has {int((~torch.isfinite(relevance)).sum())} values that are NaN or infinite.")
        return self._on_patches(relevance) if self.is_image else self._on_tokens(relevance)

    def _on_tokens(self, relevance: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.inputs.shape[:2]
        if relevance.dim() == 3 and relevance.shape[:2] == shape:
            relevance = relevance.sum(-1)
        if relevance.shape != shape:
            raise _misfit(relevance, f"one value a token {tuple(shape)}, or one a token and dimension")
        return relevance, relevance

    def _on_patches(self, relevance: Tensor) -> tuple[Tensor, Tensor]:
        if self.grid is None or self.patch_size is None:
            raise InputError("The patch grid is not known. Give grid=(rows, columns).")
        batch, size = len(self.inputs), (self.inputs.shape[-2], self.inputs.shape[-1])
        given, n_patches = relevance, self.grid[0] * self.grid[1]
        if relevance.dim() == 2 and relevance.shape in ((batch, n_patches), (batch, n_patches + self.prefix_tokens)):
            relevance = relevance[:, -n_patches:].reshape(batch, *self.grid)
        if relevance.dim() == 3:
            relevance = relevance[:, None]
        if relevance.dim() == 4 and len(relevance) == batch:
            relevance = relevance.sum(1, keepdim=True)
            if relevance.shape[-2:] == self.grid:
                return relevance, grid_to_pixels(relevance, size, patch_size=self.patch_size)[:, 0]
            if relevance.shape[-2:] == size:
                return pixels_to_grid(relevance, self.grid, patch_size=self.patch_size), relevance[:, 0]
        raise _misfit(given, f"one value a patch {(batch, 1, *self.grid)} or a pixel {tuple(self.inputs.shape)}")


def make_case(
    model: nn.Module,
    inputs: Tensor,
    keywords: Mapping[str, Any],
    *,
    target: Any,
    baseline: Baseline,
    tokenizer: Any,
    options: Mapping[str, Any],
    batch_size: int,
) -> tuple[Case, Tensor]:
    """Put a case together; one forward pass.

    Args:
        model: The model.
        inputs: Its inputs.
        keywords: Its keyword inputs.
        target: An int, one int a sample as a list or tensor, or ``None`` for the predicted classes.
        baseline: As in :func:`~attrib_plugin.runner.compare.compare`.
        tokenizer: The tokenizer, if there is one.
        options: ``readout``, ``grid`` and ``prefix_tokens``.
        batch_size: As in :class:`Case`.

    Returns:
        The case, and the scores (B,C) or (B,).

    Raises:
        InputError: If the patch grid is not known, or the baseline does not exist.
        TargetError: If a target does not select one score a sample.
    """
    with torch.no_grad():
        scores = (
            unwrap_output(model(inputs, **keywords)) if _direct(inputs) else _of_embeddings(model, inputs, keywords)
        )
    values, name = _baseline(model, inputs, keywords, baseline, tokenizer)
    grid, patch_size, prefix = _patches(find_member(model), inputs, options)
    case = Case(
        model=model,
        inputs=inputs,
        keywords=dict(keywords),
        target=_classes(scores, target),
        baseline=values,
        baseline_name=name,
        options=dict(options),
        grid=grid,
        patch_size=patch_size,
        prefix_tokens=prefix,
        batch_size=max(batch_size, len(inputs)),
    )
    return case, scores.detach().float().cpu()


def _direct(inputs: Tensor) -> bool:
    return not (inputs.dim() == 3 and inputs.is_floating_point())


def _of_embeddings(model: nn.Module, embeddings: Tensor, keywords: Mapping[str, Any]) -> Tensor:
    return unwrap_output(model(inputs_embeds=embeddings, **keywords))


def _classes(scores: Tensor, target: Any) -> Tensor | None:
    batch = len(scores)
    if scores[0].numel() == 1:
        return None
    if scores.dim() != 2:
        raise TargetError(
            f"Methods are compared on one row of class scores a sample; the output has shape {tuple(scores.shape)}. "
            "Wrap the model in a module that returns the scores of one token."
        )
    if target is None:
        return scores.argmax(-1)
    classes = torch.as_tensor(target, device=scores.device).reshape(-1)
    if classes.is_floating_point() or classes.dtype is torch.bool or len(classes) not in (1, batch):
        raise TargetError(f"Expected one class, or one for each of {batch} samples, found {target!r}.")
    if (classes < 0).any() or (classes >= scores.shape[1]).any():
        raise TargetError(f"Target {target!r} is out of range: the model has {scores.shape[1]} classes.")
    return classes.long().expand(batch)


def _patches(
    member: Member, inputs: Tensor, options: Mapping[str, Any]
) -> tuple[tuple[int, int] | None, tuple[int, int] | None, int]:
    if inputs.dim() != 4:
        return None, None, 0
    size = (inputs.shape[-2], inputs.shape[-1])
    family, grid = member.family, options.get("grid")
    knows = family.patch_grid is not None
    if grid is None and family.patch_grid is not None:
        grid = family.patch_grid(member.module, *size)
    if grid is None:
        raise InputError(
            f"The patch grid of {type(member.module).__name__} is not known. Give grid=(rows, columns), so that all "
            "maps can be shown on it."
        )
    patch_size = family.patch_size(member.module) if knows and options.get("grid") is None else None
    prefix = options.get("prefix_tokens")
    prefix = (family.prefix_tokens(member.module) if knows else 0) if prefix is None else prefix
    return grid, patch_size or (size[0] // grid[0], size[1] // grid[1]), prefix


def _baseline(
    model: nn.Module, inputs: Tensor, keywords: Mapping[str, Any], wanted: Baseline, tokenizer: Any
) -> tuple[Tensor | None, str]:
    if isinstance(wanted, Tensor):
        return wanted.to(inputs.device).expand_as(inputs), "given as a tensor"
    if inputs.is_floating_point():
        return _value_baseline(inputs, wanted)
    if wanted == "zero":
        return None, "zero embeddings"
    number, name = _absent_id(model, wanted, tokenizer)
    kept = torch.isin(inputs, inputs.new_tensor(list(getattr(tokenizer, "all_special_ids", ()))))
    mask = keywords.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == inputs.shape:
        kept = kept | (mask == 0)
    stays = ", special tokens stay" if tokenizer is not None else ""
    return torch.where(kept, inputs, number), f"{name} in place of every token{stays}"


def _value_baseline(inputs: Tensor, wanted: Baseline) -> tuple[Tensor, str]:
    if wanted in (None, "zero"):
        wanted = 0.0
    if isinstance(wanted, str) or not isinstance(wanted, (int, float)):
        raise InputError(f"Expected baseline='zero', a number or a tensor for images and embeddings, found {wanted!r}.")
    what = "pixel value" if inputs.dim() == 4 else "embedding"
    return torch.full_like(inputs, float(wanted)), f"{what} {wanted:g} after the model's preprocessing"


def _absent_id(model: nn.Module, wanted: Baseline, tokenizer: Any) -> tuple[int, str]:
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return wanted, f"id {wanted}"
    if wanted not in (None, "mask", "pad", "unk"):
        raise InputError(f"Expected baseline='mask', 'pad', 'unk', 'zero', an id or a tensor of ids, found {wanted!r}.")
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("mask", "pad", "unk")}
    if ids["pad"] is None:
        ids["pad"] = getattr(getattr(model, "config", None), "pad_token_id", None)
    order: Sequence[str] = ("mask", "pad", "unk") if wanted is None else (str(wanted),)
    for name in order:
        if (number := ids[name]) is not None:
            return int(number), f"the {name} token (id {number})"
    raise InputError(
        f"Neither tokenizer nor model names a {' or '.join(order)} token. Give baseline=id, the token that stands for "
        "absence."
    )


def _misfit(relevance: Tensor, expected: str) -> InputError:
    return InputError(f"The map has shape {tuple(relevance.shape)}. Expected {expected}.")
