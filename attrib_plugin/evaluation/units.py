"""What is removed as one when an input is perturbed: a pixel, the model's own patch, a token, a word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation.ranking import Order, check_finite, removal_ranks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Units:
    """The units of a batch and their relevance.

    Attributes:
        index: Unit of every element of the input, -1 where it is never removed; axes of length 1 stand for all.
        relevance: Sum of the attributions in each unit, float64 (B,U).
        present: Whether the sample has the unit (B,U).
    """

    index: Int[Tensor, "batch ..."]
    relevance: Float[Tensor, "batch unit"]
    present: Bool[Tensor, "batch unit"]

    @property
    def counts(self) -> Int[Tensor, " batch"]:
        """Number of units of every sample."""
        return self.present.sum(-1)

    def element_ranks(self, order: Order) -> Int[Tensor, "batch ..."]:
        """The rank of every element's unit; beyond all counts where it is never removed.

        Args:
            order: Which end of the relevance comes first.

        Returns:
            Ranks from 0, shaped as ``index``.
        """
        never = self.relevance.shape[-1]
        ranks = removal_ranks(self.relevance, order, self.present)
        flat = self.index.flatten(1)
        return ranks.gather(1, flat.clamp(min=0)).masked_fill(flat < 0, never).reshape(self.index.shape)


def patch_units(image_size: tuple[int, int], patch_size: tuple[int, int]) -> Int[Tensor, "1 1 height width"]:
    """A feature mask, as Captum's ablation methods take it, in which each patch is one feature.

    Args:
        image_size: Height and width in pixels.
        patch_size: Height and width of a patch in pixels.

    Returns:
        Patch number of every pixel, row by row from 0; -1 (never removed) at pixels beyond the last whole patch.

    Raises:
        InputError: If no whole patch fits into the image.
    """
    rows, columns = (size // patch for size, patch in zip(image_size, patch_size, strict=True))
    if rows == 0 or columns == 0:
        raise InputError(f"No patch of {patch_size} pixels fits into an image of {image_size}.")
    y = torch.arange(image_size[0])[:, None] // patch_size[0]
    x = torch.arange(image_size[1])[None, :] // patch_size[1]
    inside = (y < rows) & (x < columns)
    return torch.where(inside, y * columns + x, -1)[None, None]


def token_units(ids: Int[Tensor, "batch token"], keep: Iterable[int] = ()) -> Int[Tensor, "batch token"]:
    """A feature mask in which each token is one feature, and some are never removed.

    Args:
        ids: Token ids.
        keep: Ids that stay: padding, start, end and separator tokens (``tokenizer.all_special_ids``).

    Returns:
        Position of every token, -1 at those in ``keep``.
    """
    kept = torch.isin(ids, torch.tensor(sorted(set(keep)), dtype=ids.dtype, device=ids.device))
    return torch.arange(ids.shape[1], device=ids.device).expand_as(ids).masked_fill(kept, -1)


def divide(inputs: Tensor, attributions: Tensor, feature_mask: Tensor | None = None) -> Units:
    """Divide inputs into units and sum the relevance of each.

    Args:
        inputs: Images (B,C,H,W), embeddings (B,T,D), token ids (B,T), or any other (B,...).
        attributions: In the shape of ``inputs``, with one channel in place of many (B,1,H,W), without the last axis of
            embeddings (B,T), or a patch map (B,1,rows,columns) whose grid divides the image evenly.
        feature_mask: Unit of every element, broadcastable to ``inputs``, negative where it is never removed. ``None``:
            the cells of a patch map, else pixels (all channels as one), tokens, or single elements.

    Returns:
        The units.

    Raises:
        InputError: If shapes do not fit, the map is not finite, or a sample has no unit that may be removed.
    """
    check_finite(attributions)
    attributions = attributions.detach().double()
    if _is_patch_map(inputs, attributions):
        if feature_mask is not None:
            raise InputError(
                f"With a feature_mask the map must have the shape of the input {tuple(inputs.shape)}, found a patch "
                f"map {tuple(attributions.shape)}. Leave feature_mask out, or enlarge the map."
            )
        feature_mask = _cells(inputs, attributions)
        relevance = attributions.flatten(1)
        index = feature_mask.to(inputs.device).expand(len(inputs), -1, -1, -1)
        return Units(index, relevance, torch.ones_like(relevance, dtype=torch.bool))
    index = _checked_mask(inputs, feature_mask)
    relevance, present = _summed(inputs, _fitted(inputs, attributions), index)
    return Units(index, relevance, present)


def _is_patch_map(inputs: Tensor, attributions: Tensor) -> bool:
    return (
        inputs.dim() == attributions.dim() == 4
        and len(inputs) == len(attributions)
        and attributions.shape[1] == 1
        and attributions.shape[2:] != inputs.shape[2:]
    )


def _cells(inputs: Tensor, attributions: Tensor) -> Tensor:
    (height, width), (rows, columns) = inputs.shape[2:], attributions.shape[2:]
    if height % rows or width % columns:
        raise InputError(
            f"A patch map of {rows} x {columns} does not divide an image of {height} x {width} evenly. Give the map in "
            "pixels and feature_mask=patch_units(image_size, patch_size)."
        )
    return patch_units((height, width), (height // rows, width // columns))


def _fitted(inputs: Tensor, attributions: Tensor) -> Tensor:
    shape = inputs.shape
    if inputs.dim() == 3 and attributions.shape == shape[:2]:
        attributions = attributions[..., None]
    fits = attributions.dim() == inputs.dim() and len(attributions) == len(inputs)
    fits = fits and all(own in (1, wanted) for own, wanted in zip(attributions.shape[1:], shape[1:], strict=True))
    # An axis of length 1 stands for channels or embedding dimensions only, never for pixels or tokens.
    fits = fits and all(
        own == wanted
        for axis, (own, wanted) in enumerate(zip(attributions.shape, shape, strict=True))
        if axis != _depth(inputs)
    )
    if not fits:
        raise InputError(
            f"Attributions of shape {tuple(attributions.shape)} do not fit inputs {tuple(shape)}. Expected the shape "
            "of the inputs, one channel (B, 1, H, W), one value a token (B, T), or a patch map."
        )
    return attributions.expand(shape)


def _depth(inputs: Tensor) -> int | None:
    """The axis of channels or embedding dimensions."""
    return {4: 1, 3: 2}.get(inputs.dim())


def _checked_mask(inputs: Tensor, mask: Tensor | None) -> Tensor:
    shape = inputs.shape
    if mask is None:
        small = [length if axis != _depth(inputs) else 1 for axis, length in enumerate(shape)][1:]
        mask = torch.arange(torch.Size(small).numel()).reshape(1, *small)
    if mask.is_floating_point() or mask.dtype is torch.bool:
        raise InputError(f"Expected a feature_mask of integers, found {mask.dtype}.")
    try:
        torch.broadcast_to(mask, shape)
    except RuntimeError as error:
        raise InputError(f"A feature_mask of shape {tuple(mask.shape)} does not fit inputs {tuple(shape)}.") from error
    mask = mask.reshape((1,) * (inputs.dim() - mask.dim()) + tuple(mask.shape))
    return mask.to(inputs.device).long().clamp(min=-1).expand(len(inputs), *mask.shape[1:])


def _summed(inputs: Tensor, attributions: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    n_units = int(index.max()) + 1
    places = index.expand(inputs.shape).flatten(1)
    # One place more, for the elements that are never removed.
    places = places.masked_fill(places < 0, n_units).to(attributions.device)
    sums = attributions.new_zeros(len(inputs), n_units + 1)
    relevance = sums.scatter_add(1, places, attributions.flatten(1))[:, :n_units]
    present = sums.scatter_add(1, places, torch.ones_like(places, dtype=sums.dtype))[:, :n_units] > 0
    if not present.any(1).all():
        wrong = int((~present.any(1)).nonzero()[0])
        raise InputError(f"Sample {wrong} has no unit that may be removed: its feature_mask is negative everywhere.")
    return relevance.to(inputs.device), present.to(inputs.device)
