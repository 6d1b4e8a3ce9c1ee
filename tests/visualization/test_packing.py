import base64
import zlib

import numpy as np
import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.visualization import packing
from attrib_plugin.visualization.packing import pack, quantise


def unpack(packed, shapes):
    """The maps as a reader of the format finds them."""
    stream = zlib.decompress(base64.b64decode(packed.data))
    numbers = np.frombuffer(stream, dtype="<u2" if packed.bits == 16 else "u1").astype(np.float64)
    layers, start = [], 0
    for shape, scales in zip(shapes, packed.scales, strict=True):
        size = int(np.prod(shape))
        steps = numbers[start : start + size].reshape(shape)
        layers.append(torch.from_numpy(steps / packed.levels * np.array(scales)[:, None, None]))
        start += size
    assert start == len(numbers)
    return layers


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 5.0, 50.0])
def test_probabilities_are_off_by_at_most_half_a_step_of_255(sharpness):
    layers = [torch.softmax(sharpness * torch.randn(3, 5, 7, dtype=torch.float64), -1) for _ in range(2)]

    unpacked = unpack(pack(layers), [(3, 5, 7)] * 2)

    worst = max(float((one - other).abs().max()) for one, other in zip(layers, unpacked, strict=True))
    assert worst <= 1 / 510 + 1e-12


def test_the_error_shrinks_with_the_largest_value_of_the_head():
    attention = torch.stack([torch.eye(8), torch.full((8, 8), 1 / 8)]).double()
    attention[1, 0, 0] = 0.05

    numbers, scales = quantise(attention)

    assert scales == [1.0, 0.125]
    restored = torch.from_numpy(numbers[1].astype(np.float64)) / 255 * scales[1]
    torch.testing.assert_close(restored, attention[1], rtol=0, atol=0.125 / 510)


def test_flat_heads_of_long_texts_keep_their_attention():
    attention = torch.full((1, 512, 512), 1 / 512)

    numbers, scales = quantise(attention)

    assert scales == [packing.SMALLEST_SCALE]
    assert np.all(numbers == 8)


def test_sixteen_bits_are_finer():
    layers = [torch.rand(2, 4, 4, dtype=torch.float64) * 3]

    (unpacked,) = unpack(pack(layers, bits=16), [(2, 4, 4)])

    torch.testing.assert_close(unpacked, layers[0], rtol=0, atol=3 / 2 / 65535)


def test_layers_may_have_different_numbers_of_heads():
    layers = [torch.rand(heads, 2, 3) for heads in (4, 1, 2)]

    packed = pack(layers)

    assert [len(scales) for scales in packed.scales] == [4, 1, 2]
    for one, other in zip(layers, unpack(packed, [layer.shape for layer in layers]), strict=True):
        torch.testing.assert_close(other, one.double(), rtol=0, atol=1 / 510)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0])
def test_attention_of_a_long_text_packs_well(sharpness):
    # One of twelve layers; 40 MB is what a whole page may have.
    layer = torch.softmax(sharpness * torch.randn(12, 512, 512), -1)

    packed = pack([layer])

    assert len(packed.data) < 40e6 / 12


def test_more_than_a_browser_holds_is_refused(monkeypatch):
    monkeypatch.setattr(packing, "LARGEST_DATA", 2**20)

    with pytest.raises(
        InputError, match=r"4 layers with 2 x 512 x 512 .* makes 2 MiB, .* holds 1 MiB. Give fewer layers"
    ):
        pack([torch.zeros(2, 512, 512)] * 4)
