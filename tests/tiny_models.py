"""Random two- or three-layer models of every family, from configs: no download, a second for all of them.

A family is one entry in ``FAMILIES``. Weights are larger than a library's defaults, so that attention is far from
uniform and gradients are far from zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

N_CLASSES = 5
TEXT_LENGTHS = (7, 4, 6)


@dataclass(frozen=True)
class TinyFamily:
    """A tiny model of a family and what is needed to call it.

    Attributes:
        build: Makes the model with an attention implementation, "sdpa" or "eager".
        modality: "text" or "image".
        options: Constructor options that a method needs for this model.
        implementations: Attention implementations that the family has.
        prefix_tokens: Leading tokens that are no patches.
        grid: Patch rows and columns of the test image.
        image_size: Height and width of the test image.
        mask_name: Keyword of the padding mask; None if the model takes none.
        mask_is_padding: Whether True in the mask means padding.
        softmax_in_float32: Whether the eager softmax is computed in float32 whatever the dtype.
    """

    build: Callable[[str], nn.Module]
    modality: str
    options: dict[str, Any] = field(default_factory=dict)
    implementations: tuple[str, ...] = ("sdpa", "eager")
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None
    mask_name: str | None = None
    mask_is_padding: bool = False
    softmax_in_float32: bool = False


def _hf(kind: str, config_name: str, task: str, implementation: str, **config: Any) -> nn.Module:
    import transformers

    settings = getattr(transformers, config_name)(num_labels=N_CLASSES, attn_implementation=implementation, **config)
    return getattr(transformers, f"AutoModelFor{task}").from_config(settings)


_BERT = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=40,
)
_HF_VIT = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=(24, 40),
    patch_size=8,
)


def _timm(implementation: str, class_name: str = "VisionTransformer", **config: Any) -> nn.Module:
    import timm.models.deit
    import timm.models.vision_transformer

    home = timm.models.vision_transformer if class_name == "VisionTransformer" else timm.models.deit
    settings = dict(img_size=(24, 40), patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=N_CLASSES)
    model = getattr(home, class_name)(**{**settings, **config})
    for block in model.blocks:
        block.attn.fused_attn = implementation == "sdpa"
    return model


def _torchvision(implementation: str) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 4, 32, 48, num_classes=N_CLASSES)


class EncoderClassifier(nn.Module):
    """Token embedding, ``nn.TransformerEncoder``, masked mean, linear head: a model that no table knows whole."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 32)
        self.positions = nn.Parameter(torch.zeros(40, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(32, N_CLASSES)

    def forward(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        embedded = self.embedding(ids) + self.positions[: ids.shape[1]]
        encoded = self.encoder(embedded, src_key_padding_mask=padding)
        if padding is None:
            return self.head(encoded.mean(1))
        real = (~padding).to(encoded)[..., None]
        return self.head((encoded * real).sum(1) / real.sum(1))


_text = partial(TinyFamily, modality="text", mask_name="attention_mask")
_image = partial(TinyFamily, modality="image", image_size=(24, 40), grid=(3, 5))

FAMILIES: dict[str, TinyFamily] = {
    "bert": _text(partial(_hf, "bert", "BertConfig", "SequenceClassification", **_BERT)),
    "roberta": _text(partial(_hf, "roberta", "RobertaConfig", "SequenceClassification", **_BERT)),
    "distilbert": _text(
        partial(
            _hf,
            "distilbert",
            "DistilBertConfig",
            "SequenceClassification",
            vocab_size=60,
            dim=32,
            n_layers=3,
            n_heads=4,
            hidden_dim=48,
            max_position_embeddings=40,
        )
    ),
    "hf_vit": _image(
        partial(_hf, "vit", "ViTConfig", "ImageClassification", **_HF_VIT), prefix_tokens=1, softmax_in_float32=True
    ),
    "dinov2": _image(
        partial(
            _hf,
            "dinov2",
            "Dinov2Config",
            "ImageClassification",
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            mlp_ratio=2,
            image_size=40,
            patch_size=8,
        ),
        prefix_tokens=1,
        softmax_in_float32=True,
    ),
    "dinov2_registers": _image(
        partial(
            _hf,
            "dinov2_with_registers",
            "Dinov2WithRegistersConfig",
            "ImageClassification",
            num_register_tokens=2,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            mlp_ratio=2,
            image_size=40,
            patch_size=8,
        ),
        prefix_tokens=3,
        softmax_in_float32=True,
    ),
    "timm_vit": _image(_timm, prefix_tokens=1),
    "timm_distilled": _image(partial(_timm, class_name="VisionTransformerDistilled"), prefix_tokens=2),
    "timm_registers": _image(partial(_timm, reg_tokens=4), prefix_tokens=5),
    "timm_average": _image(partial(_timm, class_token=False, global_pool="avg"), prefix_tokens=0),
    "torchvision_vit": TinyFamily(
        _torchvision, "image", implementations=("sdpa",), prefix_tokens=1, grid=(4, 4), image_size=(32, 32)
    ),
    "torch_encoder": TinyFamily(
        lambda implementation: EncoderClassifier(),
        "text",
        options={"readout": "mean"},
        implementations=("sdpa",),
        mask_name="padding",
        mask_is_padding=True,
    ),
}


@cache
def tiny_model(name: str, implementation: str = "sdpa", dtype: torch.dtype = torch.float64) -> nn.Module:
    """The seeded model of a family in evaluation mode; the same object for the same arguments."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    model = FAMILIES[name].build(implementation).eval().to(torch.float64)
    with torch.no_grad():
        for parameter_name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            is_scale = parameter.dim() == 1 and not parameter_name.endswith("bias")
            parameter.copy_(1 + 0.1 * noise if is_scale else 0.2 * noise)
    return model.to(dtype)


def tiny_input(name: str, batch_size: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, dict[str, Tensor]]:
    """A seeded batch and its keyword arguments; texts are padded to unequal lengths (TEXT_LENGTHS)."""
    family = FAMILIES[name]
    generator = torch.Generator().manual_seed(7)
    if family.modality == "image":
        assert family.image_size is not None
        return torch.randn(batch_size, 3, *family.image_size, generator=generator, dtype=dtype), {}
    lengths = torch.tensor([TEXT_LENGTHS[sample % 3] for sample in range(batch_size)])
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(5, 60, real.shape, generator=generator)
    ids = torch.where(real, ids, torch.ones_like(ids))
    mask = ~real if family.mask_is_padding else real.long()
    return ids, {} if family.mask_name is None else {family.mask_name: mask}
