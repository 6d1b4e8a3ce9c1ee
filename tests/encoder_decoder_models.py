"""Small random encoder-decoders of transformers, float64, from configs: texts, and DETR on images."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

N_CLASSES = 5
VOCABULARY = 60
PAD, START, END = 1, 2, 3

_BART_SIZES = dict(
    vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40,
)  # fmt: skip
_T5_SIZES = dict(
    vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4,
    relative_attention_num_buckets=8,
)  # fmt: skip
_MARKS = dict(
    pad_token_id=PAD, eos_token_id=END, bos_token_id=0, decoder_start_token_id=START, num_labels=N_CLASSES,
    forced_eos_token_id=None,
)  # fmt: skip
TEXT_MODELS = {
    "bart": ("Bart", "ForConditionalGeneration", _BART_SIZES),
    "t5": ("T5", "ForConditionalGeneration", _T5_SIZES),
    "mbart": ("MBart", "ForConditionalGeneration", _BART_SIZES),
    "marian": ("Marian", "MTModel", _BART_SIZES),
    "pegasus": ("Pegasus", "ForConditionalGeneration", _BART_SIZES),
    "m2m_100": ("M2M100", "ForConditionalGeneration", _BART_SIZES),
}


@cache
def text_model(name: str, implementation: str = "sdpa", suffix: str | None = None, **changes: Any) -> nn.Module:
    """A seeded model with weights large enough for attention that is far from uniform."""
    import transformers

    stem, usual, sizes = TEXT_MODELS[name]
    settings = {**sizes, **_MARKS, "attn_implementation": implementation, **changes}
    config = getattr(transformers, f"{stem}Config")(**settings)
    return seeded(getattr(transformers, stem + (suffix or usual))(config))


@cache
def detr(implementation: str = "sdpa", **changes: Any) -> nn.Module:
    """DETR on a ResNet of four stages (stride 32), 6 object queries, 5 classes and no object."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    sizes = dict(
        d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=6, num_labels=N_CLASSES,
    )  # fmt: skip
    model = DetrForObjectDetection(DetrConfig(backbone_config=backbone, **{**sizes, **changes}))
    # The backbone has no attention, so the implementation cannot be set for the whole model.
    for part in (model.model.encoder, model.model.decoder):
        part.config._attn_implementation = implementation
    return seeded(model)


def texts(lengths: tuple[int, ...] = (7, 4, 6), seed: int = 7, padding_side: str = "right") -> tuple[Tensor, Tensor]:
    """Ids (B,T) that end with the end-of-text id, padded, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), PAD)
    mask = torch.zeros_like(ids)
    for sample, length in enumerate(lengths):
        words = torch.randint(5, VOCABULARY, (length,), generator=generator)
        words[-1] = END
        place = slice(0, length) if padding_side == "right" else slice(longest - length, longest)
        ids[sample, place], mask[sample, place] = words, 1
    return ids, mask


def seeded(model: nn.Module) -> nn.Module:
    """The model with seeded weights, larger than a library's defaults, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(11)
    model = model.eval().double()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            is_scale = parameter.dim() == 1 and not name.endswith("bias")
            parameter.copy_(1 + 0.1 * noise if is_scale else 0.2 * noise)
    return model
