import pytest
import torch
from tiny_models import tiny_model

from attrib_plugin import AttentionRollout, GradientRollout, explain
from attrib_plugin.errors import InputError
from attrib_plugin.runner.report import Section, write_report


@pytest.fixture
def section():
    model = tiny_model("timm_vit", dtype=torch.float32)
    image = torch.rand(3, 24, 40)
    explanations = [explain(model, image, method=method) for method in (GradientRollout, AttentionRollout)]
    return Section("<h1>An image", explanations, "An intro & more")


def test_a_report_needs_nothing_from_outside(tmp_path, section):
    page = write_report(tmp_path / "report.html", [section], title="Report", command="make").read_text(encoding="utf-8")

    assert "http" not in page
    assert "<script" not in page
    assert page.count('<img src="data:image/png;base64,') == 1


def test_a_report_says_what_it_shows(tmp_path, section):
    page = write_report(tmp_path / "report.html", [section], title="Report", command="make it").read_text(
        encoding="utf-8"
    )

    assert "&lt;h1&gt;An image" in page
    assert "An intro &amp; more" in page
    assert "Attention Rollout (the same for every class)" in page
    assert "explain a transformer only in part" in page
    assert "make it" in page
    assert torch.__version__.split("+")[0] in page


def test_maps_of_one_image_share_a_figure(section):
    figure = section.image_figure()

    assert [axis.get_title() for axis in figure.axes[:3]] == ["input", *(one.title for one in section.explanations)]


def test_a_section_without_explanations_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one explanation; 'empty' has none"):
        write_report(tmp_path / "report.html", [Section("empty", [])], title="Report")
