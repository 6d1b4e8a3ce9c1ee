"""What a comparison takes, and what it is saved as."""

import csv
import io
import json
import math
from functools import partial

import pytest
import torch
from captum.attr import LayerGradCam
from tiny_models import tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin import GradientRollout, compare
from attrib_plugin.errors import InputError, TargetError

EXACT = {"rtol": 0.0, "atol": 1e-12}

TARGETS = [1, 4, 2]


def text_case(n_samples=3):
    ids, keywords = tiny_input("bert", n_samples)
    return tiny_model("bert"), ids, {"forward_kwargs": keywords, "target": TARGETS[:n_samples], "baseline": 0}


def image_case(n_samples=3):
    images, _ = tiny_input("timm_vit", n_samples)
    return tiny_model("timm_vit"), images, {"target": TARGETS[:n_samples]}


def compared(case, methods, **options):
    model, inputs, given = case
    return compare(model, inputs, methods, **{"memory": False, **given, **options})


# Arguments.


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([], "at least one method"),
        (["Magic"], "no method 'Magic'"),
        (["GradientRollout:nothing"], "no preset 'nothing'"),
        ([3], "found 3"),
        ([nn.Linear], "Expected a method of this package or of Captum"),
    ],
)
def test_what_is_no_method_is_refused_at_once(methods, said):
    with pytest.raises(InputError, match=said):
        compared(image_case(1), methods)


def test_options_for_a_method_that_is_not_there_are_refused():
    with pytest.raises(InputError, match=r"options name \['Occlusion'\]"):
        compared(image_case(1), [GradientRollout], options={"Occlusion": {}})


def test_labels_are_kept_apart():
    comparison = compared(
        image_case(1), [GradientRollout, "GradientRollout", partial(GradientRollout, sign="negative"), "RawAttention"]
    )

    labels = [result.label for result in comparison.results]
    assert labels == ["GradientRollout", "GradientRollout #2", "GradientRollout(sign='negative')", "RawAttention"]


def test_a_preset_is_named_after_a_colon():
    model, images, given = image_case(2)

    comparison = compared(image_case(2), ["GradientRollout:chefer2021_generic"])

    preset = GradientRollout.from_preset("chefer2021_generic", model)
    alone = preset.attribute(images, given["target"], return_input_shape=False)
    assert_close(comparison["GradientRollout:chefer2021_generic"].relevance, alone, **EXACT)


@pytest.mark.parametrize(("target", "error"), [(5, TargetError), ([1, 2], TargetError), ("cat", TargetError)])
def test_a_target_that_is_not_there_is_refused(target, error):
    with pytest.raises(error, match=r"[Tt]arget|class"):
        compared(image_case(3), [GradientRollout], target=target)


def test_without_a_target_the_predicted_classes_are_explained():
    model, images, _ = image_case()

    comparison = compared(image_case(), [GradientRollout], target=None)

    assert [target.index for target in comparison.targets] == model(images).argmax(-1).tolist()


def test_a_model_of_an_unknown_family_needs_its_grid():
    class Wrapped(nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    with pytest.raises(InputError, match=r"patch grid of Wrapped is not known"):
        compare(Wrapped(), torch.rand(1, 3, 8, 8), ["Saliency"])
    comparison = compare(Wrapped(), torch.rand(1, 3, 8, 8), ["Saliency"], grid=(2, 4), memory=False)
    assert comparison.results[0].relevance.shape == (1, 1, 2, 4)


# Output.


def test_the_table_is_written_as_csv_and_everything_as_json():
    comparison = compared(text_case(2), [GradientRollout, LayerGradCam], scores={"mean": lambda f, x, m, **_: m.mean()})

    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    record = json.loads(comparison.to_json())
    assert [row["method"] for row in rows] == ["GradientRollout", "LayerGradCam"]
    assert float(rows[0]["mean"]) == pytest.approx(float(comparison.results[0].relevance.mean()))
    assert rows[1]["seconds"] == ""
    assert rows[1]["error"].startswith("InputError")
    assert_close(
        torch.tensor(record["methods"][0]["relevance"], dtype=torch.float64), comparison.results[0].relevance, **EXACT
    )
    assert record["methods"][1]["relevance"] is None


def test_a_score_that_is_not_finite_is_null_in_json_and_written_out_in_the_table():
    found = compared(image_case(2), [GradientRollout], scores={"odd": lambda *_, **__: torch.tensor([1.0, math.inf])})

    (method,) = json.loads(found.to_json())["methods"]
    assert method["scores"]["odd"] == [1.0, None]
    assert method["odd"] is None
    assert found.table()[0]["odd"] == math.inf


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "html", "json", "csv"])
@pytest.mark.parametrize("make_case", [text_case, image_case])
def test_a_comparison_is_saved_in_the_format_of_its_name(make_case, ending, tmp_path):
    comparison = compared(make_case(2), [GradientRollout, "Saliency", LayerGradCam])

    path = comparison.save(tmp_path / f"out.{ending}")

    assert path.stat().st_size > 100


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"found 'out.txt'"):
        compared(image_case(1), [GradientRollout]).save(tmp_path / "out.txt")


def test_the_page_escapes_what_it_shows_and_loads_nothing(tmp_path):
    def evil(inputs, target):
        raise RuntimeError("<script>alert(1)</script>")

    comparison = compared(image_case(1), {"<b>bold</b>": evil, "good": GradientRollout})
    page = comparison.save(tmp_path / "out.html").read_text(encoding="utf-8")

    for html in (page, comparison._repr_html_()):
        assert "<script" not in html
        assert "<b>bold" not in html
        assert "http:" not in html
        assert "https:" not in html
    assert "&lt;b&gt;bold" in page


def test_a_text_is_compared_word_by_word():
    from attrib_plugin.app import bundled

    bundle = bundled.load("sentiment")

    comparison = compare(
        bundle.model,
        "A gentle, moving film.",
        [GradientRollout, "InputXGradient"],
        tokenizer=bundle.tokenizer,
        target="POSITIVE",
        memory=False,
    )

    assert comparison.baseline.endswith("in place of every token, special tokens stay")
    assert comparison.targets[0].label == "POSITIVE"
    figure = comparison.figure()
    words = [label.get_text() for part in figure.subfigs for axis in part.axes for label in axis.get_xticklabels()]
    assert words[:6] == ["A", "gentle", ",", "moving", "film", "."]
    assert comparison.html().count(">gentle</span>") == 2
