"""Debian's Chromium, driven by Selenium: one browser for all tests of a worker, and a fresh page for each."""

import json
import shutil
import time

import pytest

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --force-device-scale-factor=1 --window-size=1100,900"
).split()
INSIDE = ("file:", "data:", "about:", "blob:")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs["chromedriver"]))
    yield driver
    driver.quit()


class Page:
    """A page in the browser, with the few gestures of a reader."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def open(self, html, name="page.html"):
        """Open a document and wait until it is drawn; how long that took, in seconds."""
        path = self.folder / name
        path.write_text(html, encoding="utf-8")
        start = time.perf_counter()
        self.driver.get(path.as_uri())
        self.settle()
        return time.perf_counter() - start

    def settle(self):
        ready = "return document.querySelector('main')?.getAttribute('aria-busy') !== 'true'"
        end = time.monotonic() + 30
        while not self.driver.execute_script(ready) and time.monotonic() < end:
            time.sleep(0.02)
        self.drawn()

    def drawn(self):
        """Wait until what was asked for is on the screen."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    @property
    def readout(self):
        return self.one(".readout").text

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def slide(self, name, value):
        """Move a slider, by its label."""
        slider = self.one(f'input[aria-label="{name}"]')
        self.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, str(value)
        )
        self.drawn()

    def choose(self, label):
        """Click a radio button or a checkbox, by its text."""
        next(one for one in self.all("label") if one.text == label).click()
        self.drawn()

    def point_at(self, element, right=0, down=0, click=False):
        from selenium.webdriver.common.action_chains import ActionChains

        gesture = ActionChains(self.driver, duration=0).move_to_element_with_offset(element, right, down)
        (gesture.click() if click else gesture).perform()
        self.drawn()

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()
        self.drawn()

    def picture(self, selector="canvas"):
        """What a canvas shows, as a URL: equal pictures are equal URLs."""
        return self.run("return arguments[0].toDataURL()", self.one(selector))

    def requests(self):
        """Addresses outside of the page that it asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(INSIDE)]


@pytest.fixture
def page(driver, tmp_path):
    """A page that must leave the console empty and the network alone."""
    driver.get("about:blank")
    driver.get_log("browser"), driver.get_log("performance")
    page = Page(driver, tmp_path)
    yield page
    assert driver.get_log("browser") == []
    assert page.requests() == []
