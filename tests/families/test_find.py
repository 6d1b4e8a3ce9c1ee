"""Families are recognised by the names of their classes, wherever in a model they are."""

import pytest
import torch
from tiny_models import FAMILIES, Decoder, EncoderClassifier, ReadsField, tiny_model
from torch import nn

from attrib_plugin.families import FAMILIES as TABLES
from attrib_plugin.families import find_member

# Family of every tiny model; what is not listed and of timm is a plain vision transformer.
EXPECTED = {
    **{name: f"hf_{name}" for name in ("bert", "distilbert", "albert", "deberta", "mpnet", "roformer", "modernbert")},
    "roberta": "hf_bert",
    "deberta_v2": "hf_deberta",
    **dict.fromkeys(("gpt2", "llama", "mistral"), "hf_decoder"),
    "hf_vit": "hf_vit",
    "hf_vit_msn": "hf_vit",
    "dinov2": "hf_dinov2",
    "dinov2_registers": "hf_dinov2",
    "hf_dinov3": "hf_dinov3",
    "hf_deit": "hf_deit",
    "hf_deit_teacher": "hf_deit",
    "hf_beit": "hf_beit",
    "hf_data2vec_vision": "hf_beit",
    "hf_ijepa": "hf_ijepa",
    "hf_clip_vision": "hf_clip_vision",
    "hf_clip_classifier": "hf_clip_vision",
    "hf_clip_text": "hf_clip_text",
    "hf_siglip_vision": "hf_siglip",
    "hf_siglip_classifier": "hf_siglip",
    "hf_swin": "hf_swin",
    "hf_swin_v2": "hf_swin",
    "timm_swin": "timm_swin",
    "timm_swin_v2": "timm_swin",
    "torchvision_swin": "torchvision_swin",
    "torchvision_swin_v2": "torchvision_swin",
    "torchvision_vit": "torchvision_vision_transformer",
    "torch_encoder": "torch_encoder",
}


def expected_family(name):
    is_plain_timm = name.startswith("timm_") and name not in EXPECTED
    return "timm_vision_transformer" if is_plain_timm else EXPECTED[name]


class Wrapper(nn.Module):
    """A user's module around a model, with layers of its own before it."""

    def __init__(self, model):
        super().__init__()
        self.scale = nn.Linear(1, 1)
        self.inner = nn.ModuleDict({"model": model})


def bare(model):
    """The module of the family: the model itself, except where only a part of it is known."""
    parts = {EncoderClassifier: "encoder", Decoder: "model", ReadsField: "body"}
    return getattr(model, parts[type(model)]) if type(model) in parts else model


@pytest.mark.parametrize("name", FAMILIES.every)
def test_model_belongs_to_its_family(name):
    member = find_member(tiny_model(name))

    assert member.family.name == expected_family(name)
    assert member.module is bare(tiny_model(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_model_inside_a_wrapper_is_found(name):
    member = find_member(nn.Sequential(nn.Identity(), Wrapper(tiny_model(name))))

    assert member.family.name == expected_family(name)
    assert member.module is bare(tiny_model(name))


@pytest.mark.parametrize("name", ["bert", "timm_vit", "torchvision_vit"])
def test_subclass_of_a_model_belongs_to_its_family_and_reads_the_same(name):
    model = tiny_model(name)
    subclass = type("Mine", (type(model),), {"__module__": "somewhere.else"})
    instance = subclass.__new__(subclass)
    instance.__dict__.update(model.__dict__)

    member = find_member(instance)

    assert member.family.name == expected_family(name)
    assert member.readout == find_member(model).readout


def test_subclass_of_the_distilled_model_reads_both_tokens():
    from timm.models.deit import VisionTransformerDistilled

    class Mine(VisionTransformerDistilled):
        pass

    model = Mine(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3)

    assert find_member(model).readout.prefix == (0.5, 0.5)


def test_encoder_without_a_head_belongs_to_the_family_but_has_no_readout():
    member = find_member(tiny_model("bert").bert)

    assert member.family.name == "hf_bert"
    assert member.readout is None


def test_model_of_no_family_is_unknown_and_is_its_own_member():
    model = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(4, 2))

    member = find_member(model)

    assert member.family.name == "unknown"
    assert member.module is model
    assert member.readout is None


def test_class_of_the_same_name_elsewhere_is_not_taken_for_a_family():
    class VisionTransformer(nn.Module):
        pass

    assert find_member(VisionTransformer()).family.name == "unknown"


def test_outermost_of_two_known_modules_is_the_member():
    classifier = tiny_model("bert")

    assert find_member(classifier).module is classifier
    assert find_member(classifier.bert.encoder).family.name == "unknown"


def test_no_two_families_claim_one_class():
    classes = [name for family in TABLES for name in family.classes]

    assert len(set(classes)) == len(classes)
    assert len({family.name for family in TABLES}) == len(TABLES)


# ------------------------------------------------------------------------------------- facts of the tables


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.grid])
def test_grid_of_images_that_are_not_square_is_rows_by_columns(name):
    member = find_member(tiny_model(name))

    assert member.family.patch_grid(member.module, *FAMILIES[name].image_size) == FAMILIES[name].grid
    assert member.family.prefix_tokens(member.module) == FAMILIES[name].prefix_tokens


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers"])
def test_models_of_any_image_size_say_so(name):
    member = find_member(tiny_model(name))

    assert member.family.image_size(member.module) is None
    assert member.family.patch_grid(member.module, 16, 56) == (2, 7)


@pytest.mark.parametrize(
    ("name", "size"), [("hf_vit", (24, 40)), ("timm_vit", (24, 40)), ("torchvision_vit", (32, 32))]
)
def test_models_of_one_image_size_name_it(name, size):
    member = find_member(tiny_model(name))

    assert member.family.image_size(member.module) == size


def test_timm_model_of_dynamic_size_takes_any_image():
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3, dynamic_img_size=True
    )
    member = find_member(model)

    assert member.family.image_size(model) is None
    assert member.family.patch_grid(model, 24, 56) == (3, 7)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_longest_text_is_the_longest_that_the_model_can_run(name):
    model = tiny_model(name)
    member = find_member(model)
    longest = member.family.max_tokens(member.module)

    with torch.no_grad():
        logits = model(torch.full((1, longest), 7)).logits

    assert torch.isfinite(logits).all()
    with pytest.raises((IndexError, RuntimeError), match=r"index|size"):
        model(torch.full((1, longest + 1), 7))
