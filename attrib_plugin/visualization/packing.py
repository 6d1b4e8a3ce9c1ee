"""Attention as few bytes: whole numbers of 8 or 16 bits, deflated, in base64, for pages that carry their own data."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from attrib_plugin.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray

Bits = Literal[8, 16]

SMALLEST_SCALE = 1 / 16
"""A head whose largest attention is below this is stored as if this were its largest.

Steps of 1/4080 show the attention of long texts, and numbers stay small, which is what makes them compress.
"""

LARGEST_DATA = 2**28
"""Most bytes that a page unpacks: what a browser holds without trouble."""


@dataclass(frozen=True)
class Packed:
    """Attention of all layers and heads, packed.

    Attributes:
        data: Base64 of the zlib stream of the whole numbers, layer by layer, head by head, row by row, little-endian.
        scales: For each layer and head, what the largest whole number stands for.
        bits: Bits of a whole number.
    """

    data: str
    scales: tuple[tuple[float, ...], ...]
    bits: Bits

    @property
    def levels(self) -> int:
        """The largest whole number."""
        return int(2**self.bits - 1)


def quantise(attention: Float[Tensor, "head query key"], bits: Bits = 8) -> tuple[NDArray[np.uint16], list[float]]:
    """Round non-negative maps to whole numbers, each map in steps of its own largest value.

    Args:
        attention: Maps without NaN.
        bits: Bits of a whole number.

    Returns:
        Whole numbers from 0 to ``2**bits - 1`` in the shape of ``attention``, and for each head the value that the
        largest number stands for: ``number / (2**bits - 1) * scale`` is off by at most half a step, for
        probabilities of 8 bits 1/510.
    """
    values = attention.detach().double().cpu().numpy()
    scales = np.maximum(values.max(axis=(1, 2)), SMALLEST_SCALE)
    steps = np.rint(values / scales[:, None, None] * (2**bits - 1))
    return steps.astype("<u2" if bits == 16 else np.uint8), scales.tolist()


def pack(layers: Sequence[Float[Tensor, "head query key"]], bits: Bits = 8) -> Packed:
    """Pack the attention of all layers.

    Args:
        layers: Non-negative maps without NaN.
        bits: Bits of a whole number.

    Returns:
        What a page carries.

    Raises:
        InputError: If it is more than a browser holds.
    """
    size = sum(layer.numel() for layer in layers) * bits // 8
    if size > LARGEST_DATA:
        shape = " x ".join(map(str, layers[0].shape))
        raise InputError(
            f"Attention of {len(layers)} layers with {shape} values each makes {size / 2**20:.0f} MiB, and a page "
            f"holds {LARGEST_DATA // 2**20} MiB. Give fewer layers (attention[-2:]) or heads ([layer[:4] for layer in "
            "attention])."
        )
    stream = zlib.compressobj(level=6)
    parts, scales = [], []
    for layer in layers:
        numbers, of_heads = quantise(layer, bits)
        parts.append(stream.compress(numbers.tobytes()))
        scales.append(tuple(of_heads))
    parts.append(stream.flush())
    return Packed(base64.b64encode(b"".join(parts)).decode("ascii"), tuple(scales), bits)
