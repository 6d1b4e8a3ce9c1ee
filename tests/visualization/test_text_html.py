from html.parser import HTMLParser

import pytest

from attrib_plugin.errors import InputError
from attrib_plugin.visualization import (
    ShadedGroup,
    ShadedRow,
    SheetStyles,
    shade,
    shaded_table,
    shaded_text,
    text_on,
)


class Reader(HTMLParser):
    """Collects text and tags as a browser would."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.titles = "", [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_data(self, data):
        self.text += data


def read(html):
    reader = Reader()
    reader.feed(html)
    return reader


def test_the_text_is_kept_to_the_letter_white_space_included():
    text = "a  good\nfilm"

    page = read(shaded_text(text, [(0, 1), (3, 7), (8, 12)], [0.0, 1.0, -1.0]))

    assert page.text == text


def test_hostile_text_is_shown_as_text():
    text = '<script>alert("x")</script> & <img src=x onerror=y>'

    page = read(shaded_text(text, [(0, 8), (9, len(text))], [1.0, -1.0]))

    assert page.text == text
    assert set(page.tags) == {"p", "span"}


def test_a_quote_cannot_leave_the_title():
    page = read(shaded_text('a" onmouseover="x', [(0, 17)], [0.5]))

    assert page.titles == ['a" onmouseover="x: +0.5']


def test_the_largest_value_gets_the_full_colour_and_zero_gets_none():
    html = shaded_text("a b c", [(0, 1), (2, 3), (4, 5)], [2.0, 0.0, -1.0])

    assert [part.split(";")[0] for part in html.split("background:")[1:]] == [shade(1.0), "#ffffff", shade(-0.5)]


@pytest.mark.parametrize("values", [[0.0, 0.0], [float("nan"), 1.0], [-3.0, -1.0]])
def test_zero_nan_and_negative_maps_have_a_look(values):
    page = read(shaded_text("a b", [(0, 1), (2, 3)], values))

    assert page.text == "a b"


def row(name="method", values=(1.0, -0.5, 0.0), **options):
    return ShadedRow(name, "a b <c>", ((0, 1), (2, 3), (4, 7)), values, **options)


def backgrounds(html):
    return [part.split(";")[0] for part in html.split("background:")[1:] if part.startswith("#")]


def test_several_methods_stand_in_one_table_with_every_value():
    html = shaded_table([ShadedGroup([row("<one>"), row("two", (3.0, 2.0, 1.0))], "predicted: <b>")])
    page = read(html)

    assert "predicted: <b>" in page.text
    assert page.tags.count("table") == 2
    assert page.tags.count("details") == 1
    assert "word<one>twoa+1+3b-0.5+2<c>+0+1" in page.text
    assert "full colour: 1" in page.text
    assert "full colour: 3" in page.text


@pytest.mark.parametrize(
    ("scale", "said", "limits"),
    [
        ("row", "every row is scaled by its own largest value", ["1", "4", "2"]),
        ("name", "rows of one name share a scale", ["2", "4", "2"]),
        ("all", "all rows share one scale", ["4", "4", "4"]),
    ],
)
def test_what_shares_a_scale_is_chosen_and_said(scale, said, limits):
    groups = [
        ShadedGroup([row("one"), row("two", (4.0, 0.0, 0.0))]),
        ShadedGroup([row("one", (2.0, 0.0, 0.0))]),
    ]

    page = read(shaded_table(groups, scale=scale))

    assert said in page.text
    assert [part[0] for part in page.text.split("full colour: ")[1:]] == limits


def test_strong_evidence_against_is_dotted_for_grey_print():
    html = shaded_text("a b c", [(0, 1), (2, 3), (4, 5)], [1.0, -0.5, -0.05])

    assert [("dotted" in part) for part in html.split("<span")[1:]] == [False, True, False]
    assert "dotted" not in shaded_text("a", [(0, 1)], [-1.0], tone="against")


def test_gaps_zeros_and_failures_are_said():
    rows = [
        row("gaps", (float("nan"), 1.0, 0.0)),
        row("zeros", (0.0, 0.0, 0.0)),
        ShadedRow("empty", "", (), ()),
        row("broken", failure="no <luck>"),
    ]

    page = read(shaded_table([ShadedGroup(rows)]))

    assert "full colour: 1, 1 of 3 not a number" in page.text
    assert "full colour: 0, zero everywhere" in page.text
    assert "full colour: 0, no words" in page.text
    assert "failed: no <luck>" in page.text
    assert "a: not a number" in page.titles


def test_a_value_of_the_other_sign_stays_paper():
    assert backgrounds(shaded_text("a", [(0, 1)], [-1.0], tone="for")) == ["#ffffff"]


def test_a_style_sheet_takes_all_looks_in_light_and_dark():
    styles = SheetStyles()

    html = shaded_table([ShadedGroup([row()])], styles=styles)

    assert "style=" not in html
    light, dark = styles.sheet().split("@media screen and (prefers-color-scheme: dark)")
    assert shade(1.0) in light
    assert shade(1.0, dark=True) in dark


def test_halves_of_characters_do_not_break_a_file():
    shaded_table([ShadedGroup([ShadedRow("\ud800", "a\ud800", ((0, 2),), (1.0,))])]).encode("utf-8")


def test_values_and_spans_must_fit():
    with pytest.raises(InputError, match="each of the 2 spans, found 1"):
        shaded_text("a b", [(0, 1), (2, 3)], [1.0])
    with pytest.raises(InputError, match="'row', 'name' or 'all'"):
        shaded_table([], scale="column")


# A snapshot: what changes here changes in every notebook and report.
SNAPSHOT = (
    '<p dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:2;margin:0">'
    '<span title="good: +2" style="background:#c2570c;color:#000000;padding:0.15em 0.2em;border-radius:0.2em">'
    "good</span>"
    ' &amp; <span title="bad: -1" style="background:#8fafd4;color:#000000;padding:0.15em 0.2em;border-radius:0.2em;'
    'text-decoration:underline dotted">bad</span>.</p>'
)


def test_a_text_is_written_as_it_was():
    assert shaded_text("good & bad.", [(0, 4), (7, 10)], [2.0, -1.0]) == SNAPSHOT


def _luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("tone", ["signed", "share"])
@pytest.mark.parametrize("value", [step / 20 for step in range(-20, 21)])
def test_text_is_legible_on_every_shade(value, tone, dark):
    background = shade(value, tone, dark=dark)

    lighter, darker = sorted((_luminance(background), _luminance(text_on(background))), reverse=True)

    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
