"""Swin models of all libraries, and from the definition of windows where each of their tokens is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from tiny_models import _hf_swin, _timm_swin, _torchvision_swin
from torch import Tensor, nn

# 7 x 11 patches, merged to 4 x 6: odd sizes, so that both windows and mergings are padded.
SIZE = (28, 44)
GRIDS = ((7, 11), (7, 11), (4, 6), (4, 6))
TARGETS = [1, 4, 2]


@dataclass(frozen=True)
class Library:
    """How a library cuts windows.

    Attributes:
        build: Makes the model.
        windows: Height and width of the windows of each layer.
        shifts: Rows and columns by which they are shifted.
        pads_first: Whether the map is padded before it is shifted, and not after.
        tokens: The last layer's tokens of a batch, ``batch token dim``.
    """

    build: Any
    windows: tuple[tuple[int, int], ...]
    shifts: tuple[tuple[int, int], ...]
    pads_first: bool
    tokens: Any


def _timm(**settings: Any) -> Any:
    return partial(_timm_swin, "eager", img_size=SIZE, **settings)


def _timm_tokens(model: Any, images: Tensor) -> Tensor:
    return model.forward_features(images).flatten(1, 2)


def _torchvision_tokens(model: Any, images: Tensor) -> Tensor:
    return model.norm(model.features(images)).flatten(1, 2)


FOUR, NONE, TWO, RIGHT = (4, 4), (0, 0), (2, 2), (0, 2)
# Where the height of the second map is that of a window, some shift nothing and others shift to the right alone.
ALL_FOUR, SHIFTED, TO_THE_RIGHT = (FOUR,) * 4, (NONE, TWO, NONE, TWO), (NONE, TWO, NONE, RIGHT)
LIBRARIES = {
    "timm": Library(_timm(name="v1", always_partition=False), ALL_FOUR, TO_THE_RIGHT, False, _timm_tokens),
    "timm_always": Library(_timm(name="v1"), ALL_FOUR, SHIFTED, False, _timm_tokens),
    "timm_wide": Library(
        _timm(name="v1", always_partition=False, window_size=(5, 8)),
        # A window larger than the map is cut down to it.
        ((5, 8), (5, 8), (4, 6), (4, 6)),
        (NONE, (2, 4), NONE, NONE),
        False,
        _timm_tokens,
    ),
    "timm_v2": Library(_timm(name="v2", always_partition=False), ALL_FOUR, TO_THE_RIGHT, False, _timm_tokens),
    "hf": Library(
        partial(_hf_swin, "eager", "Swin", window_size=4, image_size=SIZE),
        ALL_FOUR,
        (NONE, TWO, NONE, NONE),
        True,
        lambda model, images: model.swin(images)[0],
    ),
    "hf_v2": Library(
        partial(_hf_swin, "eager", "Swinv2", window_size=4, image_size=SIZE),
        # Its second window is that of a map of 3 x 5, which would be 7 x 11 halved and rounded down.
        (FOUR, FOUR, (3, 3), (3, 3)),
        (NONE, TWO, NONE, NONE),
        True,
        lambda model, images: model.swinv2(images)[0],
    ),
    "torchvision": Library(
        partial(_torchvision_swin, "eager", "v1"), ALL_FOUR, TO_THE_RIGHT, True, _torchvision_tokens
    ),
    "torchvision_v2": Library(
        partial(_torchvision_swin, "eager", "v2"), ALL_FOUR, TO_THE_RIGHT, True, _torchvision_tokens
    ),
}
every_library = pytest.mark.parametrize("name", LIBRARIES)


@cache
def model_of(name: str) -> nn.Module:
    generator = torch.Generator().manual_seed(11)
    model = LIBRARIES[name].build().eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def images(batch_size: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch_size, 3, *size, generator=generator, dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


def place(token: int, layer: int, library: Library) -> tuple[int, int]:
    """Window and slot of a token, numbered row by row."""
    (height, width), (rows, columns) = GRIDS[layer], library.windows[layer]
    padded = (-(-height // rows) * rows, -(-width // columns) * columns)
    turns_at = padded if library.pads_first else (height, width)
    row = (token // width - library.shifts[layer][0]) % turns_at[0]
    column = (token % width - library.shifts[layer][1]) % turns_at[1]
    window = (row // rows) * (padded[1] // columns) + column // columns
    return window, (row % rows) * columns + column % columns


def whole_maps(by_window: Tensor, layer: int, library: Library, batch_size: int) -> Tensor:
    """Maps ``batch head token token`` from maps ``batch*window head slot slot``."""
    n_tokens = GRIDS[layer][0] * GRIDS[layer][1]
    by_sample = by_window.reshape(batch_size, -1, *by_window.shape[1:])
    whole = by_window.new_zeros(batch_size, by_window.shape[1], n_tokens, n_tokens)
    places = [place(token, layer, library) for token in range(n_tokens)]
    for i, (window, slot) in enumerate(places):
        for j, (other, other_slot) in enumerate(places):
            if window == other:
                whole[:, :, i, j] = by_sample[:, window, :, slot, other_slot]
    return whole


def merging(below: tuple[int, int], above: tuple[int, int]) -> Tensor:
    """T: a merged token has equal shares of the tokens of its 2 x 2 square that are in the map."""
    shares = torch.zeros(above[0] * above[1], below[0] * below[1], dtype=torch.float64)
    for row in range(above[0]):
        for column in range(above[1]):
            square = [(2 * row + down, 2 * column + right) for down in (0, 1) for right in (0, 1)]
            inside = [(r, c) for r, c in square if r < below[0] and c < below[1]]
            for r, c in inside:
                shares[row * above[1] + column, r * below[1] + c] = 1 / len(inside)
    return shares
