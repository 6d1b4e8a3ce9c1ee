"""What holds for every view: frames of notebooks, nothing global, long inputs."""

import pytest
import torch

from attrib_plugin.runner.attention_view import AttentionView
from attrib_plugin.visualization import (
    attention_flow_view,
    attention_head_view,
    attention_image_view,
    attention_model_view,
)

LAYERS, HEADS, TOKENS = 12, 12, 512


def small(kind):
    torch.manual_seed(0)
    maps = [torch.softmax(torch.randn(2, 4, 4), -1) for _ in range(2)]
    if kind == "image":
        return attention_image_view(maps, torch.rand(8, 8, 3), grid=(2, 2))
    views = {"head": attention_head_view, "model": attention_model_view, "flow": attention_flow_view}
    return views[kind](maps, ["a", "b", "c", "d"])


def test_two_views_in_one_notebook_do_not_meet(page):
    frames = [AttentionView(small(kind))._repr_html_() for kind in ("head", "image")]
    page.open(f"<!doctype html><body style='height:2000px'>{''.join(frames)}</body>")
    names = set(page.run("return Object.getOwnPropertyNames(window)"))
    frames = page.all("iframe")

    page.driver.switch_to.frame(frames[0])
    page.settle()
    page.slide("Layer", 1)
    first = page.readout
    page.driver.switch_to.default_content()
    page.driver.switch_to.frame(frames[1])
    page.settle()
    second = page.readout
    page.driver.switch_to.default_content()

    assert first.startswith("Layer 1, 2 heads")
    assert second.startswith("Layer 1, mean of 2 heads: the patch in row 0, column 0")
    added = set(page.run("return Object.getOwnPropertyNames(window)")) - names
    # Selenium leaves names of its own.
    assert {name for name in added if not name.startswith("se_")} == set()


def test_a_notebook_with_a_strict_policy_shows_the_page(page):
    # As the web views of VS Code have it: nothing but inline code and data addresses, and connections by https alone.
    policy = (
        "default-src 'none'; script-src https: 'unsafe-inline' 'unsafe-eval'; style-src https: 'unsafe-inline'; "
        "img-src https: data:; font-src https:; connect-src https:; child-src https: data:"
    )
    frame = AttentionView(small("image"))._repr_html_()
    page.open(f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}">{frame}')

    page.driver.switch_to.frame(page.one("iframe"))
    page.settle()
    page.slide("Layer", 0)
    shown, before = page.readout, page.picture(".stage canvas")
    page.slide("Overlay", 0)

    assert shown.startswith("Layer 0, mean of 2 heads")
    assert page.picture(".stage canvas") != before
    page.driver.switch_to.default_content()


@pytest.mark.parametrize("kind", ["head", "model", "flow", "image"])
def test_a_page_has_no_global_names(page, kind):
    page.open("<!doctype html><main></main>", "blank.html")
    before = set(page.run("return Object.getOwnPropertyNames(window)"))

    page.open(small(kind))

    # Elements with an id become names of the window by themselves; they are no globals of the script.
    ids = set(page.run("return [...document.querySelectorAll('[id]')].map((one) => one.id)"))
    assert set(page.run("return Object.getOwnPropertyNames(window)")) - before - ids == set()


@pytest.mark.parametrize("kind", ["head", "model", "flow", "image"])
def test_every_control_has_a_name(page, kind):
    page.open(small(kind))

    nameless = page.run(
        "const controls = document.querySelectorAll('input, button, canvas[tabindex], [role=listbox]');"
        "const name = (one) => one.ariaLabel || one.textContent.trim() || one.closest('label')?.textContent.trim();"
        "return [...controls].filter((one) => !name(one)).map((one) => one.outerHTML)"
    )

    assert nameless == []


def test_printing_shows_a_long_list_as_a_whole(page):
    count = 150
    maps = [torch.softmax(torch.randn(1, count, count), -1)]
    page.open(attention_head_view(maps, [f"token{index}" for index in range(count)]))
    before = page.run("return document.querySelector('canvas').clientHeight")

    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.drawn()

    after = page.run("return document.querySelector('canvas').clientHeight")
    edges = page.run(
        "const boxes = ['.from', 'canvas', '.to'].map((one) => document.querySelector(one).getBoundingClientRect());"
        "return boxes.flatMap((box) => [box.left, box.right])"
    )
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert before < after == 24 * count
    assert edges == sorted(edges)


def test_a_long_text_opens_quickly_and_is_small(page):
    torch.manual_seed(0)
    maps = [torch.softmax(2 * torch.randn(HEADS, TOKENS, TOKENS), -1)] * LAYERS
    html = attention_head_view(maps, [f"token{index}" for index in range(TOKENS)])

    seconds = page.open(html)
    if seconds >= 5:
        # A machine that was busy is not the page's fault.
        seconds = page.open(html)

    assert len(html.encode()) < 40e6
    assert seconds < 5
    page.slide("Layer", 11)
    page.point_at(page.all(".from li")[7])
    best = int(maps[11].mean(0)[7].argmax())
    assert f"“token7” attends to “token{best}”" in page.readout


def test_scrolling_draws_what_comes_into_sight(page):
    count = 300
    page.open(attention_head_view([torch.eye(count)[None]], ["token"] * count))
    before = page.run("return document.querySelector('canvas').style.top")

    page.run("window.scrollTo(0, 4000)")
    page.drawn()
    page.drawn()

    assert before == "0px"
    assert int(page.run("return document.querySelector('canvas').style.top")[:-2]) > 2000
