"""The web demo as its users see it: the real command, in a process of its own that may not reach another machine."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from attrib_plugin import AttentionRollout, explain
from attrib_plugin.app import bundled
from attrib_plugin.runner.report import Section

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'attrib-plugin[app]'")

XSS = 'good <script>alert(1)</script><img src=x onerror="alert(2)"> film'
# Connections to other machines are refused, and written down.
LOCAL_ONLY = """
import socket, sys
connect = socket.socket.connect
def guarded(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CONNECT", address, file=sys.stderr, flush=True)
        raise OSError("no network in this test")
    return connect(self, address)
socket.socket.connect = guarded
from attrib_plugin.app.cli import main
main()
"""


class App:
    """A running demo."""

    def __init__(self, folder):
        self.folder = folder
        self.errors = (folder / "errors.txt").open("w+", encoding="utf-8")
        environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", LOCAL_ONLY, "app", "--port", "0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.errors, env=environment, text=True, encoding="utf-8"
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, self.said())
        self.address = found[0]

    def said(self):
        self.errors.seek(0)
        return self.errors.read()

    def uploads(self):
        return [path.name for path in self.folder.iterdir() if "attrib-plugin-app" in path.name]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.stdout.close()
        said = self.said()
        self.errors.close()
        return code, self.uploads(), said


@pytest.fixture(scope="module")
def app(driver, tmp_path_factory):
    """The demo; when it is ended, it must leave no file behind."""
    app = App(tmp_path_factory.mktemp("app"))
    uploads = app.uploads()
    yield app
    code, left, said = app.stop()
    assert len(uploads) == 1
    assert (code, left) == (0, [])
    assert "Traceback" not in said


class AppPage:
    """A tab of the demo in the browser."""

    def __init__(self, driver, address, tab):
        self.driver, self.tab = driver, tab
        driver.get(address)
        self.wait(lambda: self.all(f"#{tab}-model, button[role=tab]"))
        if tab == "image":
            self.wait(lambda: [one for one in self.all("button[role=tab]") if one.text == "Image"])
            next(one for one in self.all("button[role=tab]") if one.text == "Image").click()
        self.wait(lambda: [one for one in self.all(f"#{tab}-explain") if one.is_displayed()])

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except Exception:
                if time.monotonic() > end - 1:
                    raise
            time.sleep(0.05)
        raise TimeoutError(self.driver.find_element("css selector", "body").text)

    def type(self, text):
        box = self.all("#text-given textarea")[0]
        box.clear()
        box.send_keys(text)

    def check(self, *wanted):
        for label in self.all(f"#{self.tab}-methods label"):
            box = label.find_element("css selector", "input")
            if box.is_selected() != (label.text in wanted):
                self.driver.execute_script("arguments[0].click()", box)
        time.sleep(0.3)

    def choose_class(self, text):
        from selenium.webdriver.common.keys import Keys

        box = self.all(f"#{self.tab}-target input")[0]
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text, Keys.ENTER)

    def click(self, name):
        self.driver.execute_script("arguments[0].click()", self.all(f"#{self.tab}-{name}")[0])

    def explain(self):
        self.driver.execute_script(f"document.querySelector('#{self.tab}-answer .answer')?.remove()")
        self.click("explain")
        self.wait(lambda: self.all(f"#{self.tab}-answer .predictions"))

    def message(self):
        return self.wait(lambda: "".join(one.text for one in self.all(".toast-body, [role=alert], .toast-wrap")))

    def values(self, number):
        """Relevance by word of a map, from what a reader sees when pointing at it."""
        titles = "[...document.querySelectorAll('#text-answer .paper')][arguments[0]].querySelectorAll('[title]')"
        script = f"return [...{titles}].map(one => [one.textContent, one.title])"
        return self.driver.execute_script(script, number)


@pytest.fixture
def open_tab(driver, app):
    driver.get("about:blank")
    driver.get_log("browser"), driver.get_log("performance")
    yield lambda tab: AppPage(driver, app.address, tab)
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    inside = (app.address, "data:", "about:", "blob:")
    assert [url for url in urls if not url.startswith(inside)] == []
    assert "CONNECT" not in app.said()


def test_a_text_is_explained_with_the_values_of_the_library(open_tab):
    page = open_tab("text")
    text = "The acting is superb, but the plot is a tedious mess."

    page.type(text)
    page.check("GradientRollout", "AttentionRollout")
    page.choose_class("NEGATIVE")
    page.explain()

    bundle = bundled.load("sentiment")
    options = {"tokenizer": bundle.tokenizer, "target": "NEGATIVE"}
    shown = [page.values(number) for number in range(2)]
    methods = [
        explain(bundle.model, text, sign="signed", **options),
        explain(bundle.model, text, method=AttentionRollout, **options),
    ]
    by_method = {one.method: one for one in methods}
    titles = [one.text.partition(",")[0].partition(" (")[0] for one in page.all("#text-answer h3")]
    assert sorted(titles) == sorted(by_method)
    for title, values in zip(titles, shown, strict=True):
        found = by_method[title]
        assert [word for word, _ in values] == [word.text for word in found.words]
        np.testing.assert_allclose(
            [float(re.search(r"[-+\d.e]+$", value)[0]) for _, value in values],
            found.word_relevance,
            rtol=0.01,
            atol=1e-4,
        )


def test_an_image_is_explained_with_the_picture_of_the_library(open_tab, tmp_path):
    page = open_tab("image")
    bundle = bundled.load("multi-digits")
    pixels = np.kron(np.random.default_rng(0).integers(0, 2, (7, 7)) * 255, np.ones((8, 8))).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'x"><img src=x onerror=alert(1)>.png')

    set_model(page, "multi-digits")
    page.all("#image-given input[type=file]")[0].send_keys(str(tmp_path / 'x"><img src=x onerror=alert(1)>.png'))
    page.wait(lambda: page.all("#image-given img"))
    page.check("GradientRollout")
    page.explain()

    found = explain(
        bundle.model,
        Image.fromarray(pixels),
        processor=bundle.transform,
        sign="signed",
        labels=bundle.labels,
        multilabel=True,
    )
    shown = page.all("#image-answer img.maps")[0].get_attribute("src")
    assert found.predictions[0].label in page.all("#image-answer .predictions")[0].text
    np.testing.assert_array_equal(decoded(shown), decoded(Section("", [found]).figure))


def test_an_example_brings_its_model_and_its_classes(open_tab):
    page = open_tab("image")

    example = page.all("#image-examples img[src*='multi-digits']")[0]
    page.driver.execute_script("arguments[0].closest('button').click()", example)
    page.wait(lambda: page.all("#image-model input")[0].get_attribute("value") == "multi-digits")
    page.wait(lambda: page.all("#image-given img"))
    page.check("AttentionRollout")
    page.explain()

    assert page.all("#image-answer img.maps")


def test_markup_is_shown_as_text_and_the_attention_stands_in_a_frame_without_rights(open_tab):
    page = open_tab("text")

    page.type(XSS)
    page.check("GradientRollout")
    page.explain()
    page.click("look")
    frame = page.wait(lambda: page.all("#text-frame iframe"))[0]

    assert "onerror" in page.all("#text-answer .paper")[0].text
    assert not page.all("#text-answer script, #text-answer [onerror]")
    assert frame.get_attribute("sandbox") == "allow-scripts"
    page.driver.switch_to.frame(frame)
    page.wait(lambda: page.all("main .readout"))
    assert not page.all("[onerror]")
    page.driver.switch_to.default_content()


def test_what_goes_wrong_is_a_message_in_the_page(open_tab):
    page = open_tab("text")

    page.type(" ")
    page.click("explain")

    assert "Type a text first" in page.message()
    assert "Traceback" not in page.driver.page_source


def test_only_options_that_a_chosen_method_takes_are_shown(open_tab):
    page = open_tab("text")
    next(one for one in page.all("button") if one.text.startswith("Options of") and one.is_displayed()).click()

    page.check("GradientRollout")
    page.wait(lambda: page.all("#text-sign") and not visible(page, "#text-residual"))
    page.check("AttentionRollout")

    page.wait(lambda: visible(page, "#text-residual") and not visible(page, "#text-sign"))
    assert "for AttentionRollout" in page.all("#text-residual")[0].text


def visible(page, selector):
    return any(one.is_displayed() for one in page.all(selector))


def set_model(page, name):
    from selenium.webdriver.common.keys import Keys

    box = page.all("#image-model input")[0]
    box.click()
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(name, Keys.ENTER)
    page.wait(lambda: box.get_attribute("value") == name)


def decoded(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
