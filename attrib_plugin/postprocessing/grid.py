"""From patches to pixels and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def tokens_to_grid(
    relevance: Float[Tensor, "batch token"], grid: tuple[int, int], prefix_tokens: int
) -> Float[Tensor, "batch 1 row column"]:
    """Drop the prefix tokens and lay the patches out as the image has them.

    Args:
        relevance: One value a token, prefix tokens first, patches row by row.
        grid: Rows and columns of patches.
        prefix_tokens: Leading tokens that are no patches (class token, registers).

    Returns:
        The patch map, in the units of ``relevance``; ``LayerAttribution.interpolate`` takes it as it is.
    """
    patches = relevance[:, prefix_tokens : prefix_tokens + grid[0] * grid[1]]
    # Captum's metrics take views of what they are given, so the map owns its memory.
    return patches.reshape(len(relevance), 1, *grid).contiguous()


def grid_to_pixels(
    patches: Float[Tensor, "batch channel row column"],
    size: tuple[int, int],
    *,
    mode: Literal["nearest", "bilinear"] = "nearest",
    patch_size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch channel height width"]:
    """Enlarge a patch map to the size of the image.

    Args:
        patches: One value a patch.
        size: Height and width of the image in pixels.
        mode: ``"nearest"`` copies the value of a patch to each of its pixels, which is what the method knows;
            ``"bilinear"`` looks smoother and claims more detail than there is.
        patch_size: Height and width of a patch in pixels, the first at the top left; pixels beyond the last patch
            get zero. ``None`` spreads the grid evenly over the image.

    Returns:
        One value a pixel, in the units of ``patches``; values are copied, not divided.

    Raises:
        ValueError: If ``mode`` is neither of the two.
    """
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f"mode must be 'nearest' or 'bilinear', not {mode!r}.")
    rows, columns = patches.shape[-2:]
    seen = size if patch_size is None else (rows * patch_size[0], columns * patch_size[1])
    if mode == "bilinear":
        pixels = F.interpolate(patches, seen, mode="bilinear", align_corners=False)
    else:
        pixels = F.interpolate(patches, seen, mode="nearest-exact")
    # What the model padded is cut off, and pixels that no patch saw get zero.
    return F.pad(pixels, (0, size[1] - seen[1], 0, size[0] - seen[0])) if seen != tuple(size) else pixels


def pixels_to_grid(
    pixels: Float[Tensor, "batch channel height width"],
    grid: tuple[int, int],
    *,
    patch_size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch 1 row column"]:
    """Add pixels up within their patch and over channels.

    Args:
        pixels: One value a pixel and channel.
        grid: Rows and columns of patches.
        patch_size: As of :func:`grid_to_pixels`; pixels beyond the last patch are left out.

    Returns:
        One sum a patch, in the units of ``pixels``.
    """
    # Copying a patch to its pixels is linear, and its transpose is the sum wanted, with the same seams.
    with torch.enable_grad():
        patches = pixels.new_zeros(len(pixels), 1, *grid).requires_grad_()
        copied = grid_to_pixels(patches, (pixels.shape[-2], pixels.shape[-1]), patch_size=patch_size)
        (sums,) = torch.autograd.grad(copied, patches, pixels.detach().sum(1, keepdim=True))
    return sums
