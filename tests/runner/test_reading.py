import pytest
import torch
from other_device import elsewhere, other_device
from PIL import Image
from timm.data import create_transform
from tiny_models import tiny_model
from transformers import pipeline

from attrib_plugin import compare, explain, view
from attrib_plugin.app import bundled
from attrib_plugin.errors import InputError
from attrib_plugin.runner.reading import names_image, open_picture

TEXT = "A gentle, moving film!"


@pytest.fixture(scope="module")
def sentiment():
    return bundled.load("sentiment")


@pytest.fixture(scope="module")
def digits():
    return bundled.load("digits")


@pytest.fixture(scope="module")
def classifier(sentiment):
    return pipeline("text-classification", model=sentiment.model, tokenizer=sentiment.tokenizer, device="cpu")


def test_a_text_is_explained_where_the_model_is(sentiment):
    expected = explain(sentiment.model, TEXT, tokenizer=sentiment.tokenizer)

    with other_device():
        found = explain(elsewhere(sentiment.model), TEXT, tokenizer=sentiment.tokenizer)

    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-4, atol=1e-7)
    assert found.predictions[0].label == expected.predictions[0].label


def test_an_image_is_explained_where_the_model_is(digits):
    image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(3))
    expected = explain(digits.model, image, target=3)

    with other_device():
        found = explain(elsewhere(digits.model), image, target=3)

    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-4, atol=1e-7)
    assert (found.pixels == expected.pixels).all()


def test_methods_are_compared_where_the_model_is(sentiment):
    methods = ["GradientRollout", "IntegratedGradients"]
    options = {"IntegratedGradients": {"n_steps": 3}}
    expected = compare(sentiment.model, TEXT, methods, tokenizer=sentiment.tokenizer, options=options)

    with other_device():
        moved = elsewhere(sentiment.model)
        found = compare(moved, TEXT, methods, tokenizer=sentiment.tokenizer, options=options)

    for one, other in zip(found.results, expected.results, strict=True):
        torch.testing.assert_close(one.relevance, other.relevance, rtol=1e-4, atol=1e-7)


def test_attention_is_viewed_where_the_model_is(sentiment):
    expected = view(sentiment.model, TEXT, tokenizer=sentiment.tokenizer)

    with other_device():
        found = view(elsewhere(sentiment.model), TEXT, tokenizer=sentiment.tokenizer)

    assert len(found.html) == pytest.approx(len(expected.html), rel=0.01)


def test_a_pipeline_brings_its_tokenizer_along(sentiment, classifier):
    explanation = explain(classifier, TEXT)

    expected = explain(sentiment.model, TEXT, tokenizer=sentiment.tokenizer)
    torch.testing.assert_close(explanation.relevance, expected.relevance)
    assert compare(classifier, TEXT, ["RawAttention"]).results[0].relevance is not None
    assert view(classifier, TEXT).html == view(sentiment.model, TEXT, tokenizer=sentiment.tokenizer).html


def test_what_is_no_model_is_refused(sentiment):
    with pytest.raises(InputError, match=r"Expected an nn.Module, found str"):
        explain("bert-base-uncased", TEXT, tokenizer=sentiment.tokenizer)


def test_a_text_that_is_longer_than_any_file_name_is_a_text():
    assert not names_image("long " * 100, lambda image: image)


@pytest.mark.parametrize("mode", ["1", "L", "RGBA", "P"])
def test_an_image_of_any_mode_is_read_for_a_processor_of_three_channels(tmp_path, mode):
    model = tiny_model("timm_vit", dtype=torch.float32)
    transform = create_transform((3, 24, 40), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    Image.new(mode, (40, 24)).save(tmp_path / "one.png")

    assert explain(model, tmp_path / "one.png", processor=transform).pixels.shape == (24, 40, 3)


def test_a_file_is_read_as_viewers_show_it(tmp_path):
    shown = Image.new("RGBA", (2, 3), (0, 0, 0, 0))
    shown.putpixel((0, 0), (255, 0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright: turn by 90 degrees.
    shown.save(tmp_path / "one.png", exif=exif)

    image = open_picture(tmp_path / "one.png", "one.png")

    assert image.size == (3, 2)
    assert image.getpixel((2, 0)) == (255, 0, 0)
    assert image.getpixel((0, 0)) == (255, 255, 255)
