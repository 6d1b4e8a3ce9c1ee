"""Tiny models of an image beside a text, and pairs for them."""

from __future__ import annotations

import torch
from encoder_decoder_models import seeded
from torch import Tensor, nn
from torch.testing import assert_close

TOWER = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
END, LENGTH = 59, 9


def clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = dict(
        vocab_size=60, max_position_embeddings=LENGTH, eos_token_id=END, bos_token_id=0, pad_token_id=1, **TOWER
    )
    vision = dict(image_size=24, patch_size=8, **TOWER)
    return seeded(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)))


def siglip() -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    text = dict(vocab_size=60, max_position_embeddings=LENGTH, projection_size=32, **TOWER)
    vision = dict(image_size=24, patch_size=8, **TOWER)
    return seeded(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))


def images(count: int = 3, height: int = 24, width: int = 24) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def texts(*lengths: int) -> Tensor:
    """Ids that end with the end of text, which also fills the row, as CLIP's tokenizer does."""
    ids = torch.randint(2, END, (len(lengths), LENGTH), generator=torch.Generator().manual_seed(5))
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1 :] = END
    return ids


IMAGES, TEXTS = images(), texts(9, 6, 4)
ENDS = torch.tensor([8, 5, 3])


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert_close(actual, expected, rtol=0.0, atol=tolerance * float(expected.abs().max()))
