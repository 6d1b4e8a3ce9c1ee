import pytest
import torch
from other_device import elsewhere, other_device
from transformers import pipeline

from attrib_plugin import compare, explain, view
from attrib_plugin.app import bundled
from attrib_plugin.errors import InputError
from attrib_plugin.runner.reading import names_image

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
