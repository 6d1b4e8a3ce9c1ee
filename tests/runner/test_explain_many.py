import copy
from functools import partial

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, LayerwiseRelevance, RawAttention, explain
from attrib_plugin.app import bundled
from attrib_plugin.errors import InputError
from attrib_plugin.runner.explain_many import explain_many

TEXTS = ["A dull film.", "A gentle, moving film with a fine cast.", "Fine.", "Not one good scene in two hours."]


@pytest.fixture(scope="module")
def sentiment():
    return bundled.load("sentiment")


@pytest.fixture(scope="module")
def digits():
    return bundled.load("multi-digits")


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("options", [{"sign": "signed"}, {"method": AttentionRollout}, {"end_layer": 3}])
def test_texts_in_a_batch_are_explained_as_alone(sentiment, batch_size, options):
    alone = [explain(sentiment.model, text, tokenizer=sentiment.tokenizer, **options) for text in TEXTS]

    together = list(
        explain_many(sentiment.model, TEXTS, tokenizer=sentiment.tokenizer, batch_size=batch_size, **options)
    )

    assert [one.text for one in together] == TEXTS
    assert [one.target.label for one in together] == [one.target.label for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert_close(one.relevance, other.relevance, rtol=1e-4, atol=1e-6)
        assert_close(one.word_relevance, other.word_relevance, rtol=1e-4, atol=1e-6)


def test_images_run_in_batches_of_the_size_that_is_asked_for(digits):
    sizes = []
    hook = digits.model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    images = [*digits.examples[:2], Image.new("L", (90, 90), 30)]

    found = list(explain_many(digits.model, images, processor=digits.transform, batch_size=2, multilabel=True))
    hook.remove()

    assert sizes == [2, 2, 1, 1]
    alone = explain(digits.model, images[1], processor=digits.transform, multilabel=True)
    assert_close(found[1].relevance, alone.relevance, rtol=1e-4, atol=1e-6)


def test_texts_are_not_padded_where_the_model_knows_no_padding(sentiment):
    model = copy.deepcopy(sentiment.model)
    model.config.pad_token_id = None
    sizes = []
    model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))

    list(explain_many(model, TEXTS[:2], tokenizer=sentiment.tokenizer))

    assert sizes == [1, 1, 1, 1]


def test_an_end_layer_gives_the_row_after_that_layer(digits):
    path = digits.examples[0]

    found = explain(digits.model, path, processor=digits.transform, method=AttentionRollout, end_layer=2)

    with Image.open(path) as image:
        rows = AttentionRollout(digits.model).layer_rows(digits.transform(image)[None])
    n_rows, n_columns = found.relevance.shape
    assert_close(found.relevance.flatten(), rows[1][0, -n_rows * n_columns :])
    assert found.settings == {"end_layer": 2}


def test_the_last_end_layer_is_the_whole_model(sentiment):
    options = {"tokenizer": sentiment.tokenizer, "target": 0}

    whole = explain(sentiment.model, TEXTS[1], **options)
    last = explain(sentiment.model, TEXTS[1], end_layer=sentiment.model.config.num_hidden_layers, **options)

    assert_close(last.relevance, whole.relevance)


def test_a_preset_is_the_method_made_from_it(sentiment):
    found = explain(
        sentiment.model, TEXTS[0], tokenizer=sentiment.tokenizer, method=RawAttention, preset="chefer2021_bert"
    )

    made = lambda model: RawAttention.from_preset("chefer2021_bert", model)  # noqa: E731
    assert_close(
        found.relevance, explain(sentiment.model, TEXTS[0], tokenizer=sentiment.tokenizer, method=made).relevance
    )
    assert found.settings == {"preset": "chefer2021_bert"}


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (["fine", " "], {}, "Input 2 of 2: The text is empty"),
        (["word " * 600], {}, "602 tokens and the model takes 512"),
        (["fine"], {"end_layer": 7}, "from 1 to 6, not 7"),
        (["fine"], {"end_layer": 0}, "from 1 to 6, not 0"),
        (["fine"], {"start_layer": 4, "end_layer": 4}, "Nothing is followed from start_layer=4"),
        (["fine"], {"batch_size": 0}, "at least 1, not 0"),
        (["fine"], {"preset": "nobody"}, "has no preset 'nobody'"),
        (["fine"], {"preset": "it", "method": partial(GradientRollout)}, "needs the class of a method"),
    ],
)
def test_what_cannot_be_explained_is_refused(sentiment, given, options, said):
    with pytest.raises(InputError, match=said):
        list(explain_many(sentiment.model, given, tokenizer=sentiment.tokenizer, **options))


def test_a_native_method_runs_in_batches_too(sentiment):
    found = list(explain_many(sentiment.model, TEXTS[:2], tokenizer=sentiment.tokenizer, method=LayerwiseRelevance))

    alone = explain(sentiment.model, TEXTS[0], tokenizer=sentiment.tokenizer, method=LayerwiseRelevance)
    assert_close(found[0].relevance, alone.relevance, rtol=1e-3, atol=1e-4)
    assert torch.isfinite(found[1].relevance).all()
