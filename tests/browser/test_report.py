"""The report in a real browser: nothing on the console, no request, light and dark, narrow, printed, by keyboard."""

import pytest
import torch

from attrib_plugin.postprocessing import TextToken, Word
from attrib_plugin.runner.explanation import Explanation, Prediction
from attrib_plugin.runner.report import Section, report_html

HOSTILE = '<script>document.title = "broken"</script><img src="http://localhost/x" onerror="document.title = 1">'


def explanation(text="Мама мыла 我 🎬 שלום раму", method="Gradient Rollout", label="good"):
    words, position = [], 0
    for index, part in enumerate(text.split(" ")):
        words.append(Word(part, position, position + len(part), (index,)))
        position += len(part) + 1
    values = torch.linspace(-1, 1, len(words))
    return Explanation(
        method=method,
        settings={},
        target=Prediction(0, label, 0.9),
        against=None,
        predictions=(Prediction(0, label, 0.9), Prediction(1, "bad", 0.1)),
        relevance=values,
        tone="signed",
        text=text,
        tokens=tuple(TextToken(word.text, word.start, word.end) for word in words),
        words=tuple(words),
        word_relevance=values,
    )


def image_explanation():
    return Explanation(
        method="Gradient Rollout",
        settings={},
        target=Prediction(0, "cat", 0.9),
        against=None,
        predictions=(Prediction(0, "cat", 0.9), Prediction(1, "dog", 0.1)),
        relevance=torch.eye(4),
        tone="for",
        pixels=torch.rand(32, 32, 3).numpy(),
        source=HOSTILE,
    )


@pytest.fixture(scope="module")
def report():
    sections = [
        Section("Texts", [explanation(), explanation(method="Other"), explanation(f"a {HOSTILE}", label=HOSTILE)]),
        Section(HOSTILE, [image_explanation()]),
    ]
    return report_html(sections, title="A report")


def color(page, selector, name="backgroundColor"):
    return page.run(f"return getComputedStyle(document.querySelector('{selector}')).{name}")


def shades(page, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => getComputedStyle(one).backgroundColor)"
    return page.run(script, selector)


def test_hostile_text_does_nothing_and_words_are_shaded(page, report):
    page.open(report)

    assert page.driver.title == "A report"
    assert len(page.all("main img")) == 1
    assert len(set(shades(page, ".shaded span"))) > 3
    assert "document.title" in page.one("main").text


def test_every_value_is_reached_by_keyboard(page, report):
    from selenium.webdriver.common.keys import Keys

    page.open(report)
    before = [one.is_displayed() for one in page.all("details table")]

    page.press(Keys.TAB, Keys.ENTER)

    assert before[0] is False
    assert page.all("details table")[0].is_displayed()
    assert page.texts("details[open] tr")[1] == "Мама -1 -1"


def test_dark_pages_are_dark_and_legible(page, report):
    page.open(report)
    light = color(page, "body")
    feature = {"name": "prefers-color-scheme", "value": "dark"}

    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    page.drawn()
    dark, word = color(page, "body"), color(page, ".shaded p span")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature], "media": "print"})
    page.drawn()
    printed = color(page, "body")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})

    assert light == printed == "rgb(255, 255, 255)"
    assert dark == "rgb(22, 23, 26)"
    assert word not in (light, dark)


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_no_window_is_too_narrow(page, report, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.open(report)

    wide = page.run("return document.documentElement.scrollWidth")
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    assert wide <= width


def test_a_notebook_cell_and_a_report_show_the_same_colours(page, report):
    page.open(report)
    in_report = shades(page, ".shaded p span")[:6]

    page.open(f'<!doctype html><meta charset="utf-8">{explanation().html()}', "cell.html")

    assert shades(page, "td p span")[:6] == in_report
