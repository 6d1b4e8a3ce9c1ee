import dataclasses
import json
from typing import get_args

import pytest
import torch
from tiny_models import tiny_model

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, explain
from attrib_plugin.errors import InputError
from attrib_plugin.postprocessing import TextToken, Word
from attrib_plugin.runner.explanation import Explanation, Prediction
from attrib_plugin.runner.explanations import Explanations, input_figure
from attrib_plugin.visualization import Tone

HOSTILE = '<script>alert("x")</script>'


def text_explanation(text="good film", values=(1.0, -0.5), method="Gradient Rollout", label="POSITIVE"):
    words, position = [], 0
    for index, part in enumerate(text.split(" ")):
        words.append(Word(part, position, position + len(part), (index,)))
        position += len(part) + 1
    return Explanation(
        method=method,
        settings={"sign": "signed"},
        target=Prediction(1, label, 0.75),
        against=None,
        predictions=(Prediction(1, label, 0.75), Prediction(0, "NEGATIVE", 0.25)),
        relevance=torch.tensor(values),
        tone="signed",
        text=text,
        tokens=tuple(TextToken(word.text, word.start, word.end) for word in words),
        words=tuple(words),
        word_relevance=torch.tensor(values),
    )


@pytest.fixture(scope="module")
def images():
    model, image = tiny_model("timm_vit", dtype=torch.float32), torch.rand(3, 24, 40)
    calls = [(GradientRollout, 0), (GradientRollout, 1), (AttentionRollout, None), (RawAttention, None)]
    return [explain(model, image, method=method, target=target) for method, target in calls]


def test_explanations_of_one_input_stand_together(images):
    texts = [text_explanation(), text_explanation("bad film"), text_explanation(method="Raw Attention")]

    shown = Explanations([*texts, *images])

    assert [len(group) for group in shown.by_input()] == [2, 1, 4]
    assert len(shown.figures()) == 3


def test_they_are_a_sequence():
    shown = Explanations([text_explanation(), text_explanation("bad film")], scale="all")

    assert len(shown) == 2
    assert shown[1].text == "bad film"
    assert shown[1:].scale == "all"
    assert [one.text for one in shown] == ["good film", "bad film"]


def test_a_notebook_shows_all_of_them_and_nothing_is_printed(images, capfd):
    html = Explanations([text_explanation(), *images])._repr_html_()

    assert html.count("<img") == 1
    assert "predicted: POSITIVE 75.0%, NEGATIVE 25.0%" in html
    assert "<script" not in html
    assert capfd.readouterr() == ("", "")


def test_methods_and_classes_of_an_image_make_a_table_only_if_it_is_full(images):
    first, second = images[:2]
    others = [dataclasses.replace(one, method="Other") for one in (first, second)]

    table, line = input_figure([first, second, *others]), input_figure(images)

    assert len(table.subfigs) == 2
    assert [axis.get_ylabel() for axis in table.subfigs[0].axes if axis.get_ylabel()] == ["Gradient Rollout", "Other"]
    assert line.subfigs == []


def test_texts_share_a_figure():
    figure = Explanations([text_explanation(), text_explanation(method="Raw Attention")]).figures()[0]

    names = [label.get_text() for label in figure.subfigs[0].axes[0].get_yticklabels()]
    assert names == ["Gradient Rollout, fo…nd against POSITIVE", "Raw Attention, for and against POSITIVE"]


def test_files_are_written_in_the_format_of_their_names(tmp_path, images):
    shown = Explanations(images)

    assert len(json.loads(shown.save(tmp_path / "a.json").read_text(encoding="utf-8"))) == 4
    assert shown.save(tmp_path / "a.png").stat().st_size > 1000
    assert "<!doctype html>" in shown.save(tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"ends in \.html, \.json"):
        shown.save(tmp_path / "a.txt")
    with pytest.raises(InputError, match="there are 2 inputs"):
        Explanations([text_explanation(), *images]).save(tmp_path / "b.png")


def test_hostile_text_labels_and_names_are_shown_as_text(images):
    hostile = [
        text_explanation(f"a {HOSTILE}", label=HOSTILE),
        dataclasses.replace(images[0], source=f'{HOSTILE}".png'),
    ]

    html = Explanations(hostile).html()

    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_none_is_refused():
    with pytest.raises(InputError, match="at least one explanation"):
        Explanations([])


def test_an_explanation_says_the_call_that_makes_it_again():
    assert text_explanation().code == (
        "explain(model, 'good film', tokenizer=tokenizer, method=GradientRollout, target='POSITIVE', sign='signed')"
    )


def test_a_map_is_described_for_readers_who_do_not_see_it(images):
    values = images[0].relevance.flatten()

    row, column = divmod(int(values.abs().argmax()), 5)

    assert f"largest in row {row + 1} of 3, column {column + 1} of 5" in images[0].html()
    assert text_explanation().largest() == "largest at 'good'"
    assert dataclasses.replace(images[0], relevance=torch.zeros(3, 5)).largest() == "zero everywhere"


def test_what_is_no_number_is_null_in_every_record(tmp_path):
    relevance = torch.tensor([float("nan"), 1.0])
    text = dataclasses.replace(
        text_explanation(), relevance=relevance, word_relevance=relevance, scores={"auc": float("inf")}
    )

    text.save(tmp_path / "one.json")
    Explanations([text, text]).save(tmp_path / "two.json")

    for name in ("one.json", "two.json"):
        written = (tmp_path / name).read_text(encoding="utf-8")
        record = json.loads(written, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        record = record[0] if isinstance(record, list) else record
        assert record["relevance"] == [None, 1.0]
        assert record["scores"] == {"auc": None}


@pytest.mark.parametrize("tone", get_args(Tone))
def test_an_explanation_has_a_title_whatever_its_values_mean(tone):
    assert dataclasses.replace(text_explanation(), tone=tone).title.startswith("Gradient Rollout")
