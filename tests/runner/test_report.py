import dataclasses
import re

import pytest
import torch
from tiny_models import tiny_model

from attrib_plugin import AttentionRollout, GradientRollout, compare, explain
from attrib_plugin.errors import InputError
from attrib_plugin.runner.explanations import Explanations
from attrib_plugin.runner.report import Section, report_html, write_report
from attrib_plugin.visualization.page import content_hash

HOSTILE = '<script>alert("x")</script><img src=x onerror=y>'


@pytest.fixture(scope="module")
def section():
    model = tiny_model("timm_vit", dtype=torch.float32)
    image = torch.rand(3, 24, 40)
    explanations = [explain(model, image, method=method) for method in (GradientRollout, AttentionRollout)]
    return Section("<h1>An image", explanations, "An intro & more")


def test_a_report_needs_nothing_from_outside(tmp_path, section):
    page = write_report(tmp_path / "report.html", [section], title="Report", command="make").read_text(encoding="utf-8")

    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "url(" not in page
    assert "<script" not in page
    assert page.count('src="data:image/png;base64,') == 1


def test_a_policy_allows_this_one_style_sheet_and_nothing_else(section):
    page = report_html([section], title="Report")

    style = re.search(r"<style>(.*)</style>", page, re.DOTALL)[1]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy == (
        f"default-src 'none'; style-src '{content_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"<[^>]* style=", page)


def test_a_report_says_what_it_shows(section):
    page = report_html([section], title="Report", command="make it")

    assert "&lt;h1&gt;An image" in page
    assert "An intro &amp; more" in page
    assert "Attention Rollout (the same for every class)" in page
    assert "change the input and see" in page
    assert "<pre>make it</pre>" in page
    assert torch.__version__.split("+")[0] in page


def test_without_a_command_the_calls_are_shown(section):
    page = report_html([section.explanations[1]], title="Report")

    assert "<pre>explain(model, image, processor=processor, method=AttentionRollout)</pre>" in page


def test_explanations_and_comparisons_stand_in_one_report(section):
    model, image = tiny_model("timm_vit", dtype=torch.float32), torch.rand(1, 3, 24, 40)
    comparison = compare(model, image, ["GradientRollout", "AttentionRollout"])

    page = report_html([section, Explanations(section.explanations), comparison], title="Report")

    assert page.count("<section>") == 4
    assert page.count('src="data:image/png;base64,') == 3
    assert "2 methods on the class" in page
    assert "compare(model, inputs, [&#39;GradientRollout&#39;, &#39;AttentionRollout&#39;], processor=processor" in page


def test_scores_that_were_computed_are_shown(section):
    scored = dataclasses.replace(section.explanations[0], scores={"deletion": 0.12345, "<i>": 1.0})

    page = report_html([scored], title="Report")

    assert ">deletion</th>" in page
    assert ">0.1235</td>" in page
    assert "&lt;i&gt;" in page


def test_hostile_text_is_shown_as_text(section):
    first = section.explanations[0]
    hostile = dataclasses.replace(
        first,
        method=HOSTILE,
        source=HOSTILE,
        settings={"sign": HOSTILE},
        predictions=tuple(dataclasses.replace(one, label=HOSTILE) for one in first.predictions),
        target=dataclasses.replace(first.target, label=HOSTILE),
        scores={HOSTILE: 1.0},
    )

    page = report_html([Section(HOSTILE, [hostile], HOSTILE)], title=HOSTILE, command=HOSTILE)

    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 10


def test_nothing_to_report_is_refused():
    with pytest.raises(InputError, match="at least one explanation or comparison"):
        report_html([], title="Report")
    with pytest.raises(InputError, match="found str"):
        report_html(["text"], title="Report")


def test_maps_of_one_image_share_a_figure(section):
    figure = section.image_figure()

    assert [axis.get_title() for axis in figure.axes[:3]] == ["input", *(one.title for one in section.explanations)]


def test_a_section_without_explanations_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one explanation; 'empty' has none"):
        write_report(tmp_path / "report.html", [Section("empty", [])], title="Report")
