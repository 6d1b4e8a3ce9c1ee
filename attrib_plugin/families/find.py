"""Recognise a model's family by the qualified names of its classes, without importing any model library."""

from torch import nn

from attrib_plugin.families.base import UNKNOWN, Family, Member
from attrib_plugin.families.hf_albert import HF_ALBERT
from attrib_plugin.families.hf_beit import HF_BEIT
from attrib_plugin.families.hf_bert import HF_BERT
from attrib_plugin.families.hf_clip_text import HF_CLIP_TEXT
from attrib_plugin.families.hf_clip_vision import HF_CLIP_VISION
from attrib_plugin.families.hf_deberta import HF_DEBERTA
from attrib_plugin.families.hf_decoder import HF_DECODER
from attrib_plugin.families.hf_deit import HF_DEIT
from attrib_plugin.families.hf_detr import HF_DETR
from attrib_plugin.families.hf_dinov2 import HF_DINOV2
from attrib_plugin.families.hf_dinov3 import HF_DINOV3
from attrib_plugin.families.hf_distilbert import HF_DISTILBERT
from attrib_plugin.families.hf_encoder_decoder import HF_ENCODER_DECODER
from attrib_plugin.families.hf_ijepa import HF_IJEPA
from attrib_plugin.families.hf_mixed import HF_MIXED
from attrib_plugin.families.hf_modernbert import HF_MODERNBERT
from attrib_plugin.families.hf_mpnet import HF_MPNET
from attrib_plugin.families.hf_roformer import HF_ROFORMER
from attrib_plugin.families.hf_rotary_encoder import HF_ROTARY_ENCODER
from attrib_plugin.families.hf_siglip import HF_SIGLIP
from attrib_plugin.families.hf_siglip2 import HF_SIGLIP2
from attrib_plugin.families.hf_siglip_text import HF_SIGLIP_TEXT
from attrib_plugin.families.hf_stages import HF_STAGES
from attrib_plugin.families.hf_swin import HF_SWIN
from attrib_plugin.families.hf_two_towers import HF_CLIP_TOWERS, HF_SIGLIP_TOWERS
from attrib_plugin.families.hf_vit import HF_VIT
from attrib_plugin.families.hf_vit_mae import HF_VIT_MAE
from attrib_plugin.families.hf_xlm import HF_XLM
from attrib_plugin.families.hiera import HIERA
from attrib_plugin.families.open_clip_towers import OPEN_CLIP_CUSTOM_TOWERS, OPEN_CLIP_TOWERS, OPEN_CLIP_VISION
from attrib_plugin.families.timm_language_tower import TIMM_LANGUAGE_TOWER
from attrib_plugin.families.timm_mixed import TIMM_MIXED
from attrib_plugin.families.timm_stages import TIMM_STAGES
from attrib_plugin.families.timm_swin import TIMM_SWIN
from attrib_plugin.families.timm_vision_transformer import TIMM_VISION_TRANSFORMER
from attrib_plugin.families.torch_encoder import TORCH_ENCODER
from attrib_plugin.families.torchvision_swin import TORCHVISION_SWIN
from attrib_plugin.families.torchvision_vision_transformer import TORCHVISION_VISION_TRANSFORMER

FAMILIES: tuple[Family, ...] = (
    HF_BERT,
    HF_DISTILBERT,
    HF_ALBERT,
    HF_DEBERTA,
    HF_DECODER,
    HF_DETR,
    HF_ENCODER_DECODER,
    HF_MIXED,
    HF_MODERNBERT,
    HF_MPNET,
    HF_ROFORMER,
    HF_ROTARY_ENCODER,
    HF_XLM,
    HF_VIT,
    HF_DEIT,
    HF_BEIT,
    HF_DINOV2,
    HF_DINOV3,
    HF_CLIP_VISION,
    HF_CLIP_TEXT,
    HF_SIGLIP,
    HF_SIGLIP2,
    HF_SIGLIP_TEXT,
    HF_IJEPA,
    HF_STAGES,
    HF_SWIN,
    HF_VIT_MAE,
    HF_CLIP_TOWERS,
    HF_SIGLIP_TOWERS,
    OPEN_CLIP_TOWERS,
    OPEN_CLIP_CUSTOM_TOWERS,
    OPEN_CLIP_VISION,
    HIERA,
    TIMM_MIXED,
    TIMM_STAGES,
    TIMM_SWIN,
    TIMM_VISION_TRANSFORMER,
    TIMM_LANGUAGE_TOWER,
    TORCHVISION_SWIN,
    TORCHVISION_VISION_TRANSFORMER,
    TORCH_ENCODER,
)

_BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def find_member(model: nn.Module) -> Member:
    """The outermost module of a model that belongs to a known family.

    Args:
        model: The model, or a wrapper around one.

    Returns:
        The module with its family; the model itself with the family ``UNKNOWN`` if nothing is recognised.
    """
    for module in model.modules():
        for cls in type(module).__mro__:
            if family := _BY_CLASS.get(f"{cls.__module__}.{cls.__qualname__}"):
                return Member(family, module)
    return Member(UNKNOWN, model)


def image_towers(member: Member) -> list[str]:
    """Where a model of texts has towers of its own for images.

    Args:
        member: The model as recognised.

    Returns:
        Paths within the member's module; none if its family is not one of texts.
    """
    if member.family.modality != "text":
        return []
    # A class is looked up once however many modules are of it.
    kinds: dict[type, bool] = {}
    found = []
    for path, module in member.module.named_modules():
        kind = type(module)
        if kind not in kinds:
            kinds[kind] = _reads_images(kind)
        if path and kinds[kind]:
            found.append(path)
    return found


def _reads_images(kind: type) -> bool:
    families = (_BY_CLASS.get(f"{cls.__module__}.{cls.__qualname__}") for cls in kind.__mro__)
    return any(family is not None and family.modality == "image" for family in families)
