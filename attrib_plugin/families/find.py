"""Recognise a model's family by the qualified names of its classes, without importing any model library."""

from torch import nn

from attrib_plugin.families.base import UNKNOWN, Family, Member
from attrib_plugin.families.hf_bert import HF_BERT
from attrib_plugin.families.hf_dinov2 import HF_DINOV2
from attrib_plugin.families.hf_distilbert import HF_DISTILBERT
from attrib_plugin.families.hf_vit import HF_VIT
from attrib_plugin.families.timm_vision_transformer import TIMM_VISION_TRANSFORMER
from attrib_plugin.families.torch_encoder import TORCH_ENCODER
from attrib_plugin.families.torchvision_vision_transformer import TORCHVISION_VISION_TRANSFORMER

FAMILIES: tuple[Family, ...] = (
    HF_BERT,
    HF_DISTILBERT,
    HF_VIT,
    HF_DINOV2,
    TIMM_VISION_TRANSFORMER,
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
