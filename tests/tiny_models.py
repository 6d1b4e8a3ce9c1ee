"""Random two- or three-layer models of every family, from configs: no download, a second for all of them.

A family is one entry in ``FAMILIES``. Weights are larger than a library's defaults, so that attention is far from
uniform and gradients are far from zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
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
        windowed: Whether it attends within windows and merges tokens, which not every method follows.
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
    windowed: bool = False


def _hf(kind: str, config_name: str, task: str, implementation: str, **config: Any) -> nn.Module:
    import transformers

    settings = getattr(transformers, config_name)(num_labels=N_CLASSES, attn_implementation=implementation, **config)
    return getattr(transformers, f"AutoModelFor{task}").from_config(settings)


def _hf_model(model_name: str, config_name: str, implementation: str, **config: Any) -> nn.Module:
    import transformers

    settings = getattr(transformers, config_name)(num_labels=N_CLASSES, attn_implementation=implementation, **config)
    return getattr(transformers, model_name)(settings)


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


def _timm(implementation: str, class_name: str = "vision_transformer.VisionTransformer", **config: Any) -> nn.Module:
    home, name = class_name.split(".")
    settings = dict(img_size=(24, 40), patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=N_CLASSES)
    model = getattr(import_module(f"timm.models.{home}"), name)(**{**settings, **config})
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = implementation == "sdpa"
    return model


def _naflex(implementation: str) -> nn.Module:
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    settings = NaFlexVitCfg(
        patch_size=8, embed_dim=32, depth=3, num_heads=4, class_token=True, reg_tokens=2, global_pool="avg"
    )
    model = NaFlexVit(settings, num_classes=N_CLASSES)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = implementation == "sdpa"
    return model


class ReadsField(nn.Module):
    """A transformers model without a classifier; the first entries of a field of its output stand for classes."""

    def __init__(self, body: nn.Module, field_name: str) -> None:
        super().__init__()
        self.body = body
        self.field_name = field_name

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        keywords = {} if attention_mask is None else {"attention_mask": attention_mask}
        return self.body(inputs, **keywords)[self.field_name][:, :N_CLASSES]


def _dinov3(implementation: str) -> nn.Module:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    settings = {**_HF_VIT, "image_size": 32} if _IS_TRANSFORMERS_4 else _HF_VIT
    config = DINOv3ViTConfig(num_register_tokens=2, attn_implementation=implementation, **settings)
    return ReadsField(DINOv3ViTModel(config), "pooler_output")


def _hf_tower(config_name: str, model_name: str, implementation: str, **config: Any) -> nn.Module:
    """A tower of CLIP or SigLIP: with its projection, or inside a classifier made from the two towers' config."""
    import transformers

    vision = {**_HF_VIT, "image_size": 32, "projection_dim": N_CLASSES, **config}
    settings = getattr(transformers, config_name)
    if config_name.endswith("VisionConfig"):
        return getattr(transformers, model_name)(settings(attn_implementation=implementation, **vision))
    whole = settings(vision_config=vision, num_labels=N_CLASSES, attn_implementation=implementation)
    return getattr(transformers, model_name)(whole)


def _clip_text(implementation: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    # The end of text is the highest id of each sample, as in the checkpoints of OpenAI.
    config = CLIPTextConfig(
        attn_implementation=implementation,
        projection_dim=N_CLASSES,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **_BERT,
    )
    return ReadsField(CLIPTextModelWithProjection(config), "text_embeds")


def _torchvision(implementation: str) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 4, 32, 48, num_classes=N_CLASSES)


# Windows of 4 x 4 on a grid of 6 x 10 and then 3 x 5, unless said otherwise: the last are padded, every other block
# is shifted.
_SWIN = dict(embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, patch_size=4)


def _timm_swin(implementation: str, name: str, **config: Any) -> nn.Module:
    class_name = {"v1": "swin_transformer.SwinTransformer", "v2": "swin_transformer_v2.SwinTransformerV2"}[name]
    # The window is kept where it is larger than the map, so that there is padding in the second stage too.
    settings = {**_SWIN, "img_size": (24, 40), "num_classes": N_CLASSES, "always_partition": True, **config}
    home, class_name = class_name.split(".")
    model = getattr(import_module(f"timm.models.{home}"), class_name)(**settings)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = implementation == "sdpa"
    return model


def _hf_swin(implementation: str, name: str, **config: Any) -> nn.Module:
    # A window larger than the map of the second stage would be one that this library cannot give a position bias.
    settings = {**_SWIN, "window_size": 3, "image_size": (24, 40), **config}
    implementation = "eager" if _IS_TRANSFORMERS_4 else implementation
    return _hf_model(f"{name}ForImageClassification", f"{name}Config", implementation, **settings)


def _torchvision_swin(implementation: str, name: str, window_size: int = 4) -> nn.Module:
    from torchvision.models import swin_transformer

    parts = {} if name == "v1" else {
        "block": swin_transformer.SwinTransformerBlockV2, "downsample_layer": swin_transformer.PatchMergingV2
    }  # fmt: skip
    window = [window_size, window_size]
    return swin_transformer.SwinTransformer([4, 4], 16, [2, 2], [2, 4], window, num_classes=N_CLASSES, **parts)


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


class Decoder(nn.Module):
    """A decoder that classifies, called with ids and mask: for embeddings it would read the last token, a padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.model(ids, attention_mask=attention_mask).logits


def _decoder(kind: str, config_name: str, implementation: str, **config: Any) -> nn.Module:
    return Decoder(_hf(kind, config_name, "SequenceClassification", implementation, pad_token_id=1, **config))


def _own_attention(kind: str, config_name: str, implementation: str, **config: Any) -> nn.Module:
    return _hf(kind, config_name, "SequenceClassification", "eager", **config)


_LLAMA = {**_BERT, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
_DISENTANGLED = {
    **_BERT,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_text = partial(TinyFamily, modality="text", mask_name="attention_mask")
_image = partial(TinyFamily, modality="image", image_size=(24, 40), grid=(3, 5))
_swin = partial(TinyFamily, modality="image", image_size=(24, 40), grid=(6, 10), windowed=True)
# Nothing is padded: the cosine of a padded token is 0/0 in float16.
_swin_v2 = partial(_swin, image_size=(24, 48), grid=(6, 12), implementations=("eager",))

# What the oldest supported libraries lack (lower bounds in pyproject.toml): library, first version, what it has.
NEEDS: dict[str, tuple[str, str, str]] = {
    "hf_clip_text": ("transformers", "5", "masks float64 in CLIP's text tower without overflow"),
}


class _Available(dict[str, TinyFamily]):
    """The families that the installed libraries can build; asking for another skips the test and says why."""

    def __init__(self, families: dict[str, TinyFamily]) -> None:
        self.every = tuple(families)
        super().__init__({name: family for name, family in families.items() if not _missing(name)})

    def __missing__(self, name: str) -> TinyFamily:
        library, since, what = NEEDS[name]
        pytest.skip(f"{library} {since} {what}; installed is {version(library)}")


def _is_older(library: str, since: str) -> bool:
    found = [int(part) for part in re.findall(r"\d+", version(library).partition("+")[0])]
    return found < [int(part) for part in since.split(".")]


def _missing(name: str) -> bool:
    return name in NEEDS and _is_older(*NEEDS[name][:2])


# In transformers 4, DINOv3's configuration takes square images alone, and attention of Swin is eager alone.
_IS_TRANSFORMERS_4 = _is_older("transformers", "5")
_DINOV3_IMAGE: dict[str, Any] = {"image_size": (32, 32), "grid": (4, 4)} if _IS_TRANSFORMERS_4 else {}
_HF_SWIN: dict[str, Any] = {"implementations": ("eager",)} if _IS_TRANSFORMERS_4 else {"softmax_in_float32": True}


_FAMILIES: dict[str, TinyFamily] = {
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
    "albert": _text(partial(_hf, "albert", "AlbertConfig", "SequenceClassification", embedding_size=16, **_BERT)),
    "deberta": _text(partial(_own_attention, "deberta", "DebertaConfig", **_DISENTANGLED), implementations=("eager",)),
    "deberta_v2": _text(
        partial(
            _own_attention,
            "deberta_v2",
            "DebertaV2Config",
            position_buckets=4,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            **_DISENTANGLED,
        ),
        implementations=("eager",),
    ),
    "mpnet": _text(partial(_own_attention, "mpnet", "MPNetConfig", **_BERT), implementations=("eager",)),
    "roformer": _text(partial(_own_attention, "roformer", "RoFormerConfig", **_BERT), implementations=("eager",)),
    "modernbert": _text(
        partial(
            _hf,
            "modernbert",
            "ModernBertConfig",
            "SequenceClassification",
            global_attn_every_n_layers=2,
            local_attention=6,
            classifier_pooling="mean",
            **{**_BERT, "pad_token_id": 1, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
        ),
        softmax_in_float32=True,
    ),
    "gpt2": _text(
        partial(
            _decoder,
            "gpt2",
            "GPT2Config",
            vocab_size=60,
            n_embd=32,
            n_layer=3,
            n_head=4,
            n_positions=40,
            bos_token_id=2,
            eos_token_id=3,
        )
    ),
    "llama": _text(partial(_decoder, "llama", "LlamaConfig", **_LLAMA), softmax_in_float32=True),
    "mistral": _text(
        partial(_decoder, "mistral", "MistralConfig", sliding_window=4, **_LLAMA), softmax_in_float32=True
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
    "timm_distilled": _image(partial(_timm, class_name="deit.VisionTransformerDistilled"), prefix_tokens=2),
    "timm_registers": _image(partial(_timm, reg_tokens=4), prefix_tokens=5),
    "timm_average": _image(partial(_timm, class_token=False, global_pool="avg"), prefix_tokens=0),
    "timm_average_with_class_token": _image(
        partial(_timm, global_pool="avg", pool_include_prefix=True), prefix_tokens=1
    ),
    "timm_average_of_patches": _image(partial(_timm, global_pool="avg"), prefix_tokens=1),
    "timm_deit3": _image(partial(_timm, no_embed_class=True, init_values=0.1), prefix_tokens=1),
    "timm_siglip": _image(partial(_timm, class_token=False, global_pool="map"), prefix_tokens=0),
    "timm_pool_of_patches": _image(
        partial(_timm, reg_tokens=2, global_pool="map", pool_include_prefix=False), prefix_tokens=3
    ),
    "timm_beit": _image(
        partial(_timm, class_name="beit.Beit", use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1),
        prefix_tokens=1,
    ),
    "timm_eva02": _image(
        partial(_timm, class_name="eva.Eva", use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True), prefix_tokens=1
    ),
    "timm_dinov3": _image(
        partial(
            _timm,
            class_name="eva.Eva",
            attn_type="rope",
            use_rot_pos_emb=True,
            use_abs_pos_emb=False,
            rope_type="dinov3",
            rope_rotate_half=True,
            num_reg_tokens=4,
            dynamic_img_size=True,
            use_fc_norm=False,
            init_values=0.1,
        ),
        prefix_tokens=5,
    ),
    "timm_naflex": _image(_naflex, prefix_tokens=3),
    "timm_relpos": _image(partial(_timm, class_name="vision_transformer_relpos.VisionTransformerRelPos")),
    "hf_deit": _image(
        partial(_hf_model, "DeiTForImageClassification", "DeiTConfig", **_HF_VIT),
        prefix_tokens=2,
        softmax_in_float32=True,
    ),
    "hf_deit_teacher": _image(
        partial(_hf_model, "DeiTForImageClassificationWithTeacher", "DeiTConfig", **_HF_VIT),
        prefix_tokens=2,
        softmax_in_float32=True,
    ),
    "hf_beit": _image(
        partial(_hf_model, "BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, **_HF_VIT),
        prefix_tokens=1,
        softmax_in_float32=True,
    ),
    "hf_data2vec_vision": _image(
        partial(
            _hf_model,
            "Data2VecVisionForImageClassification",
            "Data2VecVisionConfig",
            use_shared_relative_position_bias=True,
            **_HF_VIT,
        ),
        prefix_tokens=1,
        softmax_in_float32=True,
    ),
    "hf_vit_msn": _image(
        partial(_hf_model, "ViTMSNForImageClassification", "ViTMSNConfig", **_HF_VIT),
        prefix_tokens=1,
        softmax_in_float32=True,
    ),
    "hf_ijepa": _image(
        partial(_hf_model, "IJepaForImageClassification", "IJepaConfig", **_HF_VIT), softmax_in_float32=True
    ),
    "hf_dinov3": _image(_dinov3, options={"readout": "cls"}, prefix_tokens=3, softmax_in_float32=True, **_DINOV3_IMAGE),
    "hf_clip_vision": TinyFamily(
        lambda implementation: ReadsField(
            _hf_tower("CLIPVisionConfig", "CLIPVisionModelWithProjection", implementation), "image_embeds"
        ),
        "image",
        prefix_tokens=1,
        grid=(4, 4),
        image_size=(32, 32),
        softmax_in_float32=True,
    ),
    "hf_clip_text": _text(_clip_text, softmax_in_float32=True),
    "hf_clip_classifier": TinyFamily(
        partial(_hf_tower, "CLIPConfig", "CLIPForImageClassification"),
        "image",
        prefix_tokens=1,
        grid=(4, 4),
        image_size=(32, 32),
        softmax_in_float32=True,
    ),
    "hf_siglip_vision": TinyFamily(
        lambda implementation: ReadsField(
            _hf_tower("SiglipVisionConfig", "SiglipVisionModel", implementation), "pooler_output"
        ),
        "image",
        grid=(4, 4),
        image_size=(32, 32),
        softmax_in_float32=True,
    ),
    "hf_siglip_classifier": TinyFamily(
        partial(_hf_tower, "SiglipConfig", "SiglipForImageClassification"),
        "image",
        grid=(4, 4),
        image_size=(32, 32),
        softmax_in_float32=True,
    ),
    "timm_swin": _swin(partial(_timm_swin, name="v1")),
    "timm_swin_v2": _swin_v2(partial(_timm_swin, name="v2", img_size=(24, 48), window_size=3)),
    "hf_swin": _swin(partial(_hf_swin, name="Swin"), **_HF_SWIN),
    "hf_swin_v2": _swin_v2(lambda implementation: _hf_swin("eager", "Swinv2", image_size=(24, 48))),
    "torchvision_swin": _swin(partial(_torchvision_swin, name="v1"), implementations=("eager",)),
    "torchvision_swin_v2": _swin_v2(partial(_torchvision_swin, name="v2", window_size=3)),
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

FAMILIES = _Available(_FAMILIES)


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
