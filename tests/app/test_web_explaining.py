import base64
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import pytest
from PIL import Image
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, compare, explain
from attrib_plugin.app import bundled
from attrib_plugin.app.web.explaining import Request, answer, attention_html
from attrib_plugin.errors import InputError

TEXT = "The acting is superb, but the plot is a tedious mess."
XSS = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Elements(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def sentiment():
    return bundled.load("sentiment")


@pytest.fixture(scope="module")
def digits():
    return bundled.load("multi-digits")


def test_values_are_those_of_the_library(sentiment):
    values = {"sign": "signed", "start_layer": 2, "end_layer": 5, "residual": 0.25, "head_fusion": "max"}

    found = answer(Request(sentiment, TEXT, ["GradientRollout", "AttentionRollout"], 0, 1, values)).explanations

    options = {"tokenizer": sentiment.tokenizer, "start_layer": 2, "end_layer": 5}
    gradient = explain(sentiment.model, TEXT, target=0, against=1, sign="signed", **options)
    rollout = explain(sentiment.model, TEXT, method=AttentionRollout, residual=0.25, head_fusion="max", **options)
    assert_close(found[0].relevance, gradient.relevance)
    assert_close(found[1].relevance, rollout.relevance)
    assert found[0].title == gradient.title


@pytest.mark.parametrize("modality", ["text", "image"])
def test_integrated_gradients_are_captums(sentiment, digits, modality):
    bundle = sentiment if modality == "text" else digits
    given = TEXT if modality == "text" else Image.open(digits.examples[0])

    (found,) = answer(Request(bundle, given, ["IntegratedGradients"], 1)).explanations

    reader = {"tokenizer": bundle.tokenizer, "processor": bundle.transform}
    names = {"labels": bundle.labels, "multilabel": bundle.multilabel}
    theirs = compare(bundle.model, given, ["IntegratedGradients"], target=1, memory=False, **reader, **names)
    assert_close(found.relevance.flatten(), theirs.results[0].relevance.flatten().float())
    assert found.target.index == 1
    assert found.modality == modality


def test_the_picture_is_that_of_the_report(digits):
    from attrib_plugin.runner.report import Section

    given = Image.open(digits.examples[0])

    found = answer(Request(digits, given, ["GradientRollout", "TokenGradCam"]))

    assert f'src="{Section("", found.explanations).figure}"' in found.html
    assert [one.method for one in found.explanations] == ["Gradient Rollout", "Token Grad Cam"]


def test_markup_in_a_text_is_shown_and_not_run(sentiment):
    html = answer(Request(sentiment, XSS, ["GradientRollout", "IntegratedGradients"])).html

    report = base64.b64decode(re.search(r'base64,([^"]+)">Download', html)[1]).decode("utf-8")
    for page in (html, report):
        found = Elements()
        found.feed(page)
        assert "script" not in found.tags
        assert not {name for name in found.attributes if name.startswith("on")}
        assert "onerror" in "".join(found.text)


def test_the_report_is_the_whole_page(sentiment):
    html = answer(Request(sentiment, TEXT, ["GradientRollout"])).html

    report = base64.b64decode(re.search(r'base64,([^"]+)">Download', html)[1]).decode("utf-8")
    assert report.startswith("<!doctype html>")
    assert "tedious" in report


def test_a_method_that_fails_says_so_and_the_others_are_shown(sentiment):
    found = answer(Request(sentiment, TEXT, ["AttentionRollout", "GradientRollout"], values={"residual": 2.0}))

    assert [one.method for one in found.explanations] == ["Gradient Rollout"]
    assert "AttentionRollout</b> gives no map here: residual must be between 0 and 1" in found.html


@pytest.mark.parametrize(
    ("methods", "classes", "said"),
    [
        ([], (None, None), "at least one method"),
        (["GradientRollout"] * 7, (None, None), "6 methods at most"),
        (["GradientRollout"], (1, 1), "are the same"),
    ],
)
def test_what_makes_no_sense_is_refused(sentiment, methods, classes, said):
    with pytest.raises(InputError, match=said):
        answer(Request(sentiment, TEXT, methods, *classes))


def test_two_users_at_the_same_time_do_not_mix(sentiment, digits):
    requests = [
        Request(sentiment, TEXT, ["GradientRollout"], 0, 1, {"sign": "signed"}),
        Request(sentiment, "A quiet film.", ["AttentionRollout", "GradientRollout"], 1),
        Request(digits, Image.open(digits.examples[0]).copy(), ["GradientRollout"], 3),
    ] * 2
    alone = [answer(request).explanations for request in requests[:3]] * 2

    with ThreadPoolExecutor(4) as pool:
        together = [found.explanations for found in pool.map(answer, requests)]

    for some, others in zip(together, alone, strict=True):
        for one, other in zip(some, others, strict=True):
            assert_close(one.relevance, other.relevance)
            assert one.target == other.target


def test_an_attention_view_stands_in_a_frame_without_rights(sentiment):
    html = attention_html(sentiment, XSS, "head")

    assert html.startswith("<iframe srcdoc=")
    assert 'sandbox="allow-scripts"' in html
    assert "<script" not in html


def test_options_at_their_defaults_are_left_out(sentiment):
    values = {"sign": "positive", "start_layer": 0, "end_layer": None, "discard_ratio": 0.0}

    (found,) = answer(Request(sentiment, TEXT, ["GradientRollout"], values=values)).explanations

    assert found.settings == {}
    assert_close(
        found.relevance, explain(sentiment.model, TEXT, tokenizer=sentiment.tokenizer, method=GradientRollout).relevance
    )
