from html.parser import HTMLParser

import pytest

from attrib_plugin.visualization import shade, shaded_text, text_on


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


def _luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("tone", ["signed", "share"])
@pytest.mark.parametrize("value", [step / 20 for step in range(-20, 21)])
def test_text_is_legible_on_every_shade(value, tone):
    background = shade(value, tone)

    lighter, darker = sorted((_luminance(background), _luminance(text_on(background))), reverse=True)

    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
