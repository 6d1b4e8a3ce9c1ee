import json
import re

import pytest
import torch
from tiny_models import tiny_model

import attrib_plugin
from attrib_plugin import AttentionView, RawAttention, view
from attrib_plugin.app import bundled
from attrib_plugin.errors import InputError
from attrib_plugin.visualization import attention_image_view


def facts_of(shown):
    return json.loads(re.search(r'class="facts">(.*?)</script>', shown.html, re.DOTALL)[1])


@pytest.fixture(scope="module")
def sentiment():
    return bundled.load("sentiment")


@pytest.mark.parametrize(("kind", "bits"), [(None, 8), ("head", 8), ("model", 8), ("flow", 16)])
def test_a_text_is_shown_token_by_token(sentiment, kind, bits):
    shown = view(sentiment.model, "A gentle film!", kind=kind, tokenizer=sentiment.tokenizer)

    facts = facts_of(shown)
    assert facts["queries"] == ["[CLS]", "A", "gentle", "film", "!", "[SEP]"]
    assert facts["title"] == "BertForSequenceClassification: A gentle film!"
    assert facts["bits"] == bits
    assert len(facts["heads"]) == sentiment.model.config.num_hidden_layers


def test_the_page_holds_the_attention_of_the_model(sentiment):
    shown = view(sentiment.model, "A gentle film!", tokenizer=sentiment.tokenizer)

    heads = RawAttention(sentiment.model).head_attention(
        sentiment.tokenizer("A gentle film!", return_tensors="pt")["input_ids"]
    )
    expected = [layer[0].amax((1, 2)).clamp(min=1 / 16) for layer in heads]
    torch.testing.assert_close(torch.tensor(facts_of(shown)["scales"]), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_an_image_is_shown_as_the_model_saw_it():
    model = tiny_model("timm_vit", dtype=torch.float32)
    image = torch.rand(3, 24, 40)

    shown = view(model, image, title="seen")

    heads = RawAttention(model).head_attention(image[None])
    pixels = image.permute(1, 2, 0)
    facts = facts_of(shown)
    rows, columns = facts["grid"]
    assert (rows, columns) == (3, 5)
    patch = tuple(facts["patch"])
    page = attention_image_view(
        heads, pixels, grid=(3, 5), prefix_tokens=facts["prefix"], patch_size=patch, title="seen"
    )
    assert shown.html == page


@pytest.mark.parametrize("kind", ["head", "model", "flow"])
def test_patches_of_an_image_can_be_shown_as_tokens(kind):
    shown = view(tiny_model("timm_vit", dtype=torch.float32), torch.rand(3, 24, 40), kind=kind)

    assert facts_of(shown)["queries"][-1] == "2, 4"


def test_of_a_batch_one_is_shown(sentiment):
    texts = ["A gentle film!", "Dull."]

    shown = view(sentiment.model, texts, sample=1, tokenizer=sentiment.tokenizer)

    assert facts_of(shown)["queries"] == ["[CLS]", "Dull", ".", "[SEP]"]
    with pytest.raises(InputError, match="Found a batch of 2, and a view shows one: say which with sample="):
        view(sentiment.model, texts, tokenizer=sentiment.tokenizer)
    with pytest.raises(InputError, match="one of the 2 in the batch, counted from 0, not 2"):
        view(sentiment.model, texts, sample=2, tokenizer=sentiment.tokenizer)


def test_of_a_tensor_of_images_one_is_shown():
    model = tiny_model("timm_vit", dtype=torch.float32)
    images = torch.rand(2, 3, 24, 40)

    assert view(model, images, sample=1).html == view(model, images[1]).html
    assert view(model, images[:1]).html == view(model, images[0]).html
    with pytest.raises(InputError, match="Found a batch of 2"):
        view(model, images)


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("fine", {"kind": "image"}, "needs an image, found a text"),
        ("fine", {"kind": "tree"}, "kind must be 'head', 'model', 'flow' or 'image', not 'tree'"),
        ("fine", {"sample": 1}, "sample=1 needs a batch, found one str"),
        ("fine", {"tokenizer": None}, "needs its model's tokenizer"),
        (" ", {}, "The text is empty"),
    ],
)
def test_what_cannot_be_shown_is_refused(sentiment, what, options, said):
    with pytest.raises(InputError, match=said):
        view(sentiment.model, what, **{"tokenizer": sentiment.tokenizer, **options})


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    from html import unescape

    shown = AttentionView("<!doctype html><p title=\"a\">'&amp;'</p>", height=321, title='"x" & y')

    frame = shown._repr_html_()

    assert unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == shown.html
    assert 'sandbox="allow-scripts"' in frame
    assert "height:321px" in frame
    assert 'title="&quot;x&quot; &amp; y"' in frame


def test_a_page_is_saved_as_html_alone(tmp_path):
    shown = AttentionView("<!doctype html>ä")

    path = shown.save(tmp_path / "view.html")

    assert path.read_text(encoding="utf-8") == "<!doctype html>ä"
    with pytest.raises(InputError, match=r"ends in .html, found 'view.png'"):
        shown.save(tmp_path / "view.png")


def test_long_titles_are_cut(sentiment):
    shown = view(sentiment.model, "word " * 60, tokenizer=sentiment.tokenizer)

    title = facts_of(shown)["title"]
    assert len(title) < 120
    assert title.endswith("…")


def test_views_belong_to_the_public_names():
    assert attrib_plugin.view is view
    assert {"view", "AttentionView"} <= set(attrib_plugin.__all__)
