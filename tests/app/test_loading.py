import os
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from attrib_plugin.app import hub
from attrib_plugin.app.bundled import load
from attrib_plugin.app.loading import load_model
from attrib_plugin.app.timm_models import is_timm_name, load_timm
from attrib_plugin.errors import InputError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TIMM = "test_vit"


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tokenizer = load("sentiment").tokenizer
    tokenizer.save_pretrained(folder)
    config = BertConfig(vocab_size=len(tokenizer), id2label={0: "bad", 1: "so so", 2: "good"}, **SMALL)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_is_loaded(text_folder):
    bundle = load_model(str(text_folder), "text")

    assert bundle.labels == ("bad", "so so", "good")
    assert not bundle.model.training


def test_a_checkpoint_fills_an_architecture_of_transformers(tmp_path, text_folder):
    weights = load_model(str(text_folder), "text").model.state_dict()
    weights = {name: value + 1 for name, value in weights.items()}
    save_file(weights, tmp_path / "mine.safetensors")

    bundle = load_model(str(text_folder), "text", checkpoint=tmp_path / "mine.safetensors", dtype="float64")

    torch.testing.assert_close(bundle.model.classifier.bias, weights["classifier.bias"].double())


@pytest.mark.parametrize("name", [TIMM, f"timm:{TIMM}"])
def test_a_checkpoint_of_timm_brings_its_number_of_classes(tmp_path, name):
    trained = timm.create_model(TIMM, num_classes=7)
    torch.save(trained.state_dict(), tmp_path / "mine.pt")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"), encoding="utf-8")

    bundle = load_model(name, "image", checkpoint=tmp_path / "mine.pt", labels=tmp_path / "labels.txt")

    assert bundle.labels == tuple("abcdefg")
    torch.testing.assert_close(bundle.model.head.weight, trained.head.weight)


def test_a_folder_that_timm_saved_is_loaded_with_its_labels(tmp_path):
    from timm.models import save_for_hf

    model = timm.create_model(TIMM, num_classes=2)
    save_for_hf(model, tmp_path, model_config={"label_names": ["no", "yes"]}, safe_serialization=True)

    bundle = load_model(str(tmp_path), "image")

    assert bundle.labels == ("no", "yes")


def test_classes_of_imagenet_have_names():
    assert load_timm("vit_tiny_patch16_224", untrained=True).labels[281] == "tabby, tabby cat"


def test_a_name_alone_is_timms_if_timm_has_it(tmp_path):
    ViTForImageClassification(ViTConfig(**SMALL)).save_pretrained(tmp_path)

    assert is_timm_name("vit_tiny_patch16_224.augreg_in21k")
    assert is_timm_name("timm/vit_tiny_patch16_224.augreg_in21k")
    assert not is_timm_name("google/vit-base-patch16-224")
    assert not is_timm_name("no-such-model")
    assert not is_timm_name(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("no/such", {}, "neither a bundled model"),
        ("timm:nobody", {}, "timm has no architecture 'nobody'"),
        (TIMM, {}, "timm cannot load"),
        ("digits", {"checkpoint": "it.pt"}, "has its own weights"),
        ("digits", {"dtype": "int3"}, "found 'int3'"),
        ("digits", {"device": "nowhere"}, "cannot be put on the device 'nowhere'"),
        ("sentiment", {}, "reads text, not image"),
    ],
)
def test_what_cannot_be_loaded_is_said(name, options, said):
    with pytest.raises(InputError, match=said):
        load_model(name, "image", **options)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    def refuse(*given, **options):
        asked.append(options["timeout"])
        raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    hub.is_reachable.cache_clear()
    try:
        for _ in range(2):
            with hub.without_retries():
                assert os.environ["HF_HUB_OFFLINE"] == "1"
                assert sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE
            assert "HF_HUB_OFFLINE" not in os.environ
        assert len(asked) == 1
        assert asked[0] < 10
    finally:
        hub.is_reachable.cache_clear()
