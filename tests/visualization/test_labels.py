import io

import pytest
from matplotlib.figure import Figure

from attrib_plugin.visualization import label
from attrib_plugin.visualization.labels import _turned, finish

HARD = [
    "Привет",
    "我喜欢电影",
    "🎬 film",
    "$5 and $6",
    "a_b^c",
    "שלום",
    "مرحبا",
    "cafe\u0301",
    "\n\t",
    "  ",
    "",
    "👩‍👧",
    "\x00",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a_b^c", "a_b^c"),
        ("cost $5", r"cost \$5"),
        ("line\nbreak\ttab", "line↵break⇥tab"),
        ("  ", "␣␣"),
        ("", "∅"),
        ("cafe\u0301", "café"),
        ("zero\u200bwidth", "zerowidth"),
        ("\x00", "[U+0000]"),
    ],
)
def test_a_label_is_one_line_of_visible_signs(text, shown):
    assert label(text) == shown


def test_a_long_label_keeps_its_beginning_and_its_end():
    shown = label("Donaudampfschifffahrtsgesellschaft", 11)

    assert shown == "Donau…chaft"
    assert len(shown) == 11


def test_a_character_that_no_font_has_is_written_in_brackets(monkeypatch):
    monkeypatch.setattr("attrib_plugin.visualization.labels._families", lambda: ("DejaVu Sans",))

    assert label("电影") == "[U+7535 U+5F71]"
    assert label("🎬!") == "[clapper board]!"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_any_text_is_drawn_without_a_warning(ending):
    figure = Figure(layout="constrained")
    figure.subplots().set_yticks(range(len(HARD)), [label(text) for text in HARD])

    finish(figure, HARD).savefig(buffer := io.BytesIO(), format=ending)

    assert buffer.getvalue()


def test_a_figure_says_which_labels_are_replaced(monkeypatch):
    monkeypatch.setattr("attrib_plugin.visualization.labels._families", lambda: ("DejaVu Sans",))

    figure = finish(Figure(layout="constrained"), ["电影", "film"], note="a note")

    assert figure.get_supxlabel() == (
        "a note\nNo installed font has 2 characters of these labels: [in brackets] by name or number."
    )


def test_letters_from_right_to_left_are_turned_for_a_matplotlib_that_does_not():
    assert _turned("a \u05e9\u05dc\u05b8 b") == "a \u05dc\u05b8\u05e9 b"
