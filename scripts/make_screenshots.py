"""Make the pictures of docs/how-to/attention-views.md, web-demo.md and pictures.md with a real browser.

Needs Debian's packages chromium and chromium-driver, and Selenium.

Run: python scripts/make_screenshots.py [--output docs/images]
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains

from attrib_plugin import (
    AttentionGradCam,
    AttentionRollout,
    AttentionView,
    Explanations,
    GradientRollout,
    explain,
    view,
)
from attrib_plugin.app import bundled
from attrib_plugin.app.photo import load_photo_model
from attrib_plugin.app.web.server import serve

TEXT = "The first half is slow, but the ending moved me to tears."
REVIEWS = (
    "The acting is superb and the music enchanting, but the plot is a tedious, predictable mess.",
    "Surprisingly tender: I expected a silly comedy and left the cinema deeply moved.",
)
FLAGS = "--headless=new --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --force-device-scale-factor=1.5"
MOST_COLORS = 256


class Camera:
    """A browser that takes pictures of views."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS.split(), "--disable-background-networking", "--disable-component-update"):
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.folder = folder

    def open(self, shown: AttentionView, height: int, width: int = 960) -> None:
        """Open a page and wait until it is drawn."""
        path = shown.save(self.folder / "view.html")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1.5, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(path.as_uri())
        while self.driver.execute_script("return document.querySelector('main').ariaBusy !== 'false'"):
            pass

    def open_file(self, path: Path, height: int, width: int = 960, *, dark: bool = False) -> None:
        """Open a page without a script."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1.5, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.as_uri())

    def slide(self, name: str, value: float) -> None:
        """Move a slider."""
        slider = self.driver.find_element("css selector", f'input[aria-label="{name}"]')
        move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.driver.execute_script(move, slider, str(value))

    def click(self, selector: str, number: int = 0) -> None:
        """Click an element."""
        self.driver.find_elements("css selector", selector)[number].click()

    def point_at(self, selector: str, number: int = 0, right: int = 0, down: int = 0, click: bool = False) -> None:
        """Move the pointer over an element, some pixels from its middle."""
        element = self.driver.find_elements("css selector", selector)[number]
        gesture = ActionChains(self.driver, duration=0).move_to_element_with_offset(element, right, down)
        (gesture.click() if click else gesture).perform()

    def shoot(self, path: Path, *, all_colors: bool = False) -> None:
        """Write what is seen, in few colours unless bars of colours would suffer."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )
        self.driver.save_screenshot(str(path))
        picture = Image.open(path).convert("RGB")
        (picture if all_colors else picture.quantize(MOST_COLORS)).save(path, optimize=True)


def shoot_web_demo(camera: Camera, path: Path) -> None:
    """Write a picture of the web demo with an image explained."""
    server = serve(port=0)
    try:
        metrics = {"width": 1280, "height": 1040, "deviceScaleFactor": 1.5, "mobile": False}
        camera.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        camera.driver.get(server.address)
        camera.driver.implicitly_wait(60)
        camera.driver.find_element("xpath", "//button[@role='tab'][.='Image']").click()
        camera.driver.find_element("css selector", "#image-examples button").click()
        camera.driver.find_element("css selector", "#image-given img")
        camera.click("#image-explain")
        camera.driver.find_element("css selector", "#image-answer .predictions")
        camera.driver.execute_script("window.scrollTo(0, 0)")
        time.sleep(2)  # The page fades its progress out.
        camera.shoot(path)
    finally:
        server.close()


def report_pictures(output: Path, folder: Path, camera: Camera) -> None:
    """Write pictures of a report on texts, light and dark, and of one explanation as a notebook shows it."""
    bundle = bundled.load("sentiment")
    methods = ((GradientRollout, {"sign": "signed"}), (AttentionRollout, {}), (AttentionGradCam, {}))
    shown = Explanations(
        explain(bundle.model, text, tokenizer=bundle.tokenizer, method=method, **options)
        for text in REVIEWS
        for method, options in methods
    )
    path = shown.save(folder / "report.html", title="Two film reviews")
    camera.open_file(path, height=1000)
    camera.shoot(output / "report.png", all_colors=True)
    camera.open_file(path, height=760, dark=True)
    camera.shoot(output / "report-dark.png", all_colors=True)
    page = f'<!doctype html><meta charset="utf-8">{shown[0].html()}'
    (folder / "cell.html").write_text(page, encoding="utf-8")
    camera.open_file(folder / "cell.html", height=210)
    camera.shoot(output / "notebook-cell.png", all_colors=True)


def main(output: Path, *, only_report: bool = False) -> None:
    """Write one picture a view, and those of web demo and reports."""
    output.mkdir(parents=True, exist_ok=True)
    if only_report:
        with tempfile.TemporaryDirectory() as folder:
            camera = Camera(Path(folder))
            report_pictures(output, Path(folder), camera)
            camera.driver.quit()
        return
    text = bundled.load("sentiment")
    reader = {"tokenizer": text.tokenizer}
    photo = load_photo_model()
    with tempfile.TemporaryDirectory() as folder:
        camera = Camera(Path(folder))

        camera.open(view(text.model, TEXT, **reader), height=640)
        camera.slide("Layer", 5)
        camera.click("input[type=checkbox]")
        camera.driver.execute_script(
            "const buttons = [...document.querySelectorAll('fieldset button')];"
            "buttons.at(-1).click(); for (const head of [1, 4, 7, 9, 11]) buttons[head].click();"
        )
        camera.point_at(".from li", 0)
        camera.shoot(output / "view-head.png")

        camera.open(view(text.model, TEXT, kind="model", **reader), height=640)
        camera.click(".maps button", 4 * 12 + 8)
        camera.point_at("dialog canvas", right=60, down=40)
        camera.shoot(output / "view-model.png")

        camera.open(view(text.model, TEXT, kind="flow", **reader), height=600)
        camera.slide("Hide below", 12)
        camera.shoot(output / "view-flow.png")

        camera.open(view(photo.model, photo.examples[0], processor=photo.transform), height=740)
        camera.slide("Layer", 9)
        camera.point_at(".stage canvas", right=-100, down=40, click=True)
        camera.shoot(output / "view-image.png")

        shoot_web_demo(camera, output / "web-demo.png")
        report_pictures(output, Path(folder), camera)
        camera.driver.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--only-report", action="store_true", help="only the pictures of reports")
    arguments = parser.parse_args()
    main(arguments.output, only_report=arguments.only_report)
