"""Is the relevance where the object is? Scores of maps against masks, without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation.ranking import average_precision, check_finite
from attrib_plugin.evaluation.scoring import only_tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def pointing_game(
    attributions: Any, masks: Bool[Tensor, "batch height width"], *, tolerance: float = 0.0
) -> Float[Tensor, " batch"]:
    """Whether the highest value of a map lies on the object.

    Where several places share the highest value, the score is the share of them that lies on the object: the chance
    that one drawn among them does. So a constant map gets the share of the image that the object covers.

    Args:
        attributions: Maps (B,H,W), (B,1,H,W) or (B,C,H,W), channels averaged.
        masks: True on the object, at least somewhere; of the size of the map.
        tolerance: A place counts as on the object within this Euclidean distance in pixels (the paper: 15).

    Returns:
        0 or 1, or between where the highest value is shared; high is good.

    Raises:
        InputError: If sizes differ, a map is not finite, or a mask is empty.

    Reference:
        Zhang et al. 2016, arXiv:1608.00507.
    """
    maps, masks = _checked(attributions, masks)
    if tolerance > 0:
        masks = _grown(masks, tolerance)
    highest = maps == maps.amax((1, 2), keepdim=True)
    return (highest & masks).sum((1, 2)).double() / highest.sum((1, 2))


def mass_inside(attributions: Any, masks: Bool[Tensor, "batch height width"]) -> Float[Tensor, " batch"]:
    """Share of the positive relevance that lies on the object; negative values count as none.

    Args:
        attributions: As in :func:`pointing_game`.
        masks: As in :func:`pointing_game`.

    Returns:
        0 to 1; high is good; a constant positive map gets the share of the image that the object covers. A map without
        a positive value has put nothing on the object and gets 0.

    Raises:
        InputError: As :func:`pointing_game`.

    Reference:
        Kohlbrenner et al. 2020, arXiv:1910.09840 (inside-total relevance ratio).
    """
    maps, masks = _checked(attributions, masks)
    positive = maps.clamp(min=0)
    total = positive.sum((1, 2))
    inside = (positive * masks).sum((1, 2))
    return torch.where(total > 0, inside / total, torch.zeros_like(total))


def cell_shares(attributions: Any, rows: int = 2, columns: int = 2) -> Float[Tensor, "batch cell"]:
    """Share of the positive relevance in each cell of a mosaic; by default in each quadrant.

    Args:
        attributions: As in :func:`pointing_game`; patch maps too.
        rows: Number of rows of cells; it divides the map's height.
        columns: Number of columns; it divides the map's width.

    Returns:
        Shares, cell by cell in reading order; they sum to 1, and are 0 for a map without a positive value.

    Raises:
        InputError: If cells do not divide the map, or it is not finite.
    """
    maps = _maps(attributions)
    height, width = maps.shape[1:]
    if height % rows or width % columns:
        raise InputError(f"Cells of {rows} x {columns} do not divide a map of {height} x {width}.")
    blocks = maps.clamp(min=0).reshape(len(maps), rows, height // rows, columns, width // columns)
    cells = blocks.sum((2, 4)).flatten(1)
    total = cells.sum(1, keepdim=True)
    return torch.where(total > 0, cells / total, torch.zeros_like(cells))


def share_in_cell(
    attributions: Any, cells: Int[Tensor, " batch"], rows: int = 2, columns: int = 2
) -> Float[Tensor, " batch"]:
    """Share of the positive relevance in the cell where it belongs.

    Args:
        attributions: As in :func:`cell_shares`.
        cells: The right cell of every sample, in reading order from 0.
        rows: As in :func:`cell_shares`.
        columns: As in :func:`cell_shares`.

    Returns:
        0 to 1; chance is one over the number of cells.

    Raises:
        InputError: As :func:`cell_shares`, or if there is no such cell.
    """
    shares = cell_shares(attributions, rows, columns)
    if len(cells) != len(shares) or not ((cells >= 0) & (cells < rows * columns)).all():
        raise InputError(f"Expected one cell from 0 to {rows * columns - 1} for each of {len(shares)} maps.")
    return shares.gather(1, cells[:, None].to(shares.device)).squeeze(1)


class SegmentationResult(NamedTuple):
    """Scores over a data set, each between 0 and 1.

    Attributes:
        pixel_accuracy: Share of the labelled pixels put on the right side.
        mean_average_precision: Mean over images of the average precision.
        mean_iou: Mean of the intersection over union of background and object, each summed over the data set first.
    """

    pixel_accuracy: float
    mean_average_precision: float
    mean_iou: float


class SegmentationScore:
    """Chefer's segmentation test: a map, cut at its mean, taken for a mask of the object.

    Each map is scaled to 0 ... 1. Pixels above its mean are object, the others background. Pixel accuracy and
    intersection over union are counted over the whole data set; average precision is that of one image, whose 2HW
    items are ``1 - map`` for the background and ``map`` for the object. A constant map is scaled to 0: everything is
    background (the authors' code gets NaN there and sets it to 0 on both sides, which also reads as background). The
    authors enlarge patch maps bilinearly before.

    For example::

        score = SegmentationScore()
        for images, masks in data:
            score.update(method.attribute(images), masks)
        print(score.compute())

    Reference:
        Chefer, Gur and Wolf 2021a, arXiv:2012.09838, section 4, and the authors' code.
    """

    def __init__(self) -> None:
        self._correct = 0
        self._labelled = 0
        self._intersection = torch.zeros(2, dtype=torch.long)
        self._union = torch.zeros(2, dtype=torch.long)
        self._precisions: list[float] = []

    def update(self, attributions: Any, masks: Int[Tensor, "batch height width"]) -> None:
        """Add images.

        Args:
            attributions: As in :func:`pointing_game`.
            masks: 1 (or True) on the object, 0 elsewhere, negative where nothing is known; empty and full masks are
                allowed.

        Raises:
            InputError: If sizes differ, a map is not finite, or an image has no labelled pixel.
        """
        maps, masks = _checked(attributions, masks, empty_allowed=True)
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        scaled = torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-300), torch.zeros_like(maps))
        objects = scaled > scaled.mean((1, 2), keepdim=True)
        labelled = masks >= 0
        if not labelled.flatten(1).any(1).all():
            raise InputError("An image has no labelled pixel: its mask is negative everywhere.")
        self._labelled += int(labelled.sum())
        for side in (0, 1):
            found = (objects == bool(side)) & labelled
            true = (masks == side) & labelled
            self._intersection[side] += int((found & true).sum())
            self._union[side] += int((found | true).sum())
            self._correct += int((found & true).sum())
        for one, truth, known in zip(scaled, masks, labelled, strict=True):
            values, sides = one[known], truth[known] == 1
            both = average_precision(torch.cat([1 - values, values]), torch.cat([~sides, sides]))
            self._precisions.append(float(both))

    def compute(self) -> SegmentationResult:
        """The scores over all images so far.

        Returns:
            The scores. A side that is neither found nor there in any image has an intersection over union of 0.

        Raises:
            InputError: If there was no image.
        """
        if not self._precisions:
            raise InputError("There is nothing to score yet: call update with maps and masks first.")
        iou = self._intersection.double() / self._union.clamp(min=1)
        return SegmentationResult(
            pixel_accuracy=self._correct / self._labelled,
            mean_average_precision=sum(self._precisions) / len(self._precisions),
            mean_iou=float(iou.mean()),
        )


def _maps(attributions: Any) -> Tensor:
    maps = only_tensor(attributions, "attributions").detach()
    if maps.dim() not in (3, 4):
        raise InputError(f"Expected maps (B, H, W) or (B, C, H, W), found {tuple(maps.shape)}.")
    check_finite(maps)
    maps = maps.double()
    return maps.mean(1) if maps.dim() == 4 else maps


def _checked(attributions: Any, masks: Tensor, *, empty_allowed: bool = False) -> tuple[Tensor, Tensor]:
    maps = _maps(attributions)
    masks = masks.squeeze(1) if masks.dim() == 4 else masks
    if masks.shape != maps.shape:
        raise InputError(
            f"Masks of {tuple(masks.shape)} and maps of {tuple(maps.shape)} must have the same size. Take the map in "
            "pixels (return_input_shape=True), or shrink the masks to patches."
        )
    masks = masks.to(maps.device)
    if empty_allowed:
        return maps, masks.long()
    masks = masks > 0
    if not masks.flatten(1).any(1).all():
        wrong = int((~masks.flatten(1).any(1)).nonzero()[0])
        raise InputError(f"The mask of image {wrong} is empty, so there is nothing to find. Leave the image out.")
    return maps, masks


def _grown(masks: Tensor, distance: float) -> Tensor:
    """Masks with everything within a Euclidean distance of them."""
    reach = int(distance)
    offsets = torch.arange(-reach, reach + 1, device=masks.device)
    disc = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= distance**2
    near = F.conv2d(masks[:, None].double(), disc[None, None].double(), padding=reach)
    return near.squeeze(1) > 0.5
