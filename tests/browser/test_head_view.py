import pytest
import torch

from attrib_plugin.visualization import attention_head_view

TOKENS = ["[CLS]", "a", "gentle", "film", "[SEP]"]


def attention(layers=3, heads=4, queries=5, keys=5):
    torch.manual_seed(0)
    return [torch.softmax(2 * torch.randn(heads, queries, keys), -1) for _ in range(layers)]


def shares(page, side):
    """The percentages beside the tokens of a list, as numbers between 0 and 1."""
    texts = page.texts(f".tokens.{side} .share")
    return [float(text.replace("%", "")) / 100 if text else 0.0 for text in texts]


def test_a_pointed_token_shows_its_attention_in_numbers(page):
    maps = attention()
    page.open(attention_head_view(maps, TOKENS))

    page.point_at(page.all(".from li")[2])

    expected = maps[0].mean(0)[2]
    torch.testing.assert_close(torch.tensor(shares(page, "to")), expected, rtol=0, atol=1 / 510 + 5e-4)
    assert page.readout.startswith("Layer 0, mean of 4 heads: “gentle” attends to “")
    assert shares(page, "from") == [0.0] * 5


def test_a_pointed_key_shows_who_attends_to_it(page):
    maps = attention()
    page.open(attention_head_view(maps, TOKENS))

    page.point_at(page.all(".to li")[3])

    torch.testing.assert_close(torch.tensor(shares(page, "from")), maps[0].mean(0)[:, 3], rtol=0, atol=1 / 510 + 5e-4)
    assert "“film” is attended to by" in page.readout


def test_layer_and_heads_are_chosen(page):
    maps = attention()
    page.open(attention_head_view(maps, TOKENS))
    before = page.picture()

    page.slide("Layer", 2)
    page.one("button.chip[aria-label='head 0']").click()
    page.one("button.chip[aria-label='head 3']").click()
    page.point_at(page.all(".from li")[1])

    torch.testing.assert_close(torch.tensor(shares(page, "to")), maps[2][1:3].mean(0)[1], rtol=0, atol=1 / 510 + 5e-4)
    pressed = [chip.get_attribute("aria-pressed") for chip in page.all("button.chip")]
    assert pressed == ["false", "true", "true", "false"]
    assert page.picture() != before
    assert "2 of 0–2" in page.texts("output")


def test_lines_of_different_heads_have_different_colours(page):
    page.open(attention_head_view(attention(heads=8), TOKENS))

    swatches = page.run(
        "return [...document.querySelectorAll('.chip')].map("
        "(chip) => getComputedStyle(chip, '::before').backgroundColor)"
    )

    assert len(set(swatches)) == 8


def test_no_head_is_said_and_draws_nothing(page):
    page.open(attention_head_view(attention(), TOKENS))

    next(button for button in page.all("button") if button.text == "none").click()
    page.drawn()

    assert page.readout == "No head is chosen."
    pixels = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 400, 100).data"
    assert page.run(f"return {pixels}.every((value) => value === 0)")


def test_threshold_leaves_fewer_lines(page):
    maps = attention()
    page.open(attention_head_view(maps, TOKENS))
    page.slide("Hide below", 0)
    every = page.readout

    page.slide("Hide below", 80)

    # What is less than half a step of its head is nothing.
    shown = maps[0] / maps[0].amax((1, 2), keepdim=True) * 255 >= 0.5
    assert f"{int(shown.sum())} lines" in every
    count = int(page.readout.split(": ")[1].split(" line")[0])
    assert 0 < count < 20


def test_a_clicked_token_stays_until_clicked_again(page):
    page.open(attention_head_view(attention(), TOKENS))
    token = page.all(".from li")[3]

    page.point_at(token, click=True)
    page.point_at(page.one("h1"))
    kept = page.readout
    page.point_at(token, click=True)
    page.point_at(page.one("h1"))

    assert "“film” attends to" in kept
    assert "lines of at least" in page.readout


def test_tokens_are_reached_by_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    page.open(attention_head_view(attention(), TOKENS))

    page.run("document.querySelector('.tokens.from').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)

    assert "“a” attends to" in page.readout
    assert page.one(".tokens.from").get_attribute("aria-activedescendant") == page.all(".from li")[1].get_attribute(
        "id"
    )


def test_two_sequences_stand_side_by_side(page):
    maps = attention(queries=3, keys=5)
    page.open(attention_head_view(maps, ["das", "ist", "gut"], key_tokens=TOKENS))

    page.point_at(page.all(".from li")[2])

    assert (len(page.all(".from li")), len(page.all(".to li"))) == (3, 5)
    torch.testing.assert_close(torch.tensor(shares(page, "to")), maps[0].mean(0)[2], rtol=0, atol=1 / 510 + 5e-4)


def test_hostile_text_is_shown_and_not_run(page):
    hostile = [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "\u2028`${alert(1)}`",
        "&lt;b&gt;",
        "<!--",
    ]
    page.open(attention_head_view(attention(), hostile, title="</title><script>document.title='pwned'</script>"))

    page.point_at(page.all(".from li")[0])

    shown = page.run("return [...document.querySelectorAll('.from .token')].map((one) => one.textContent)")
    assert shown == hostile
    assert page.all("main img") == []
    assert len(page.all("script")) == 3
    assert page.driver.title == "</title><script>document.title='pwned'</script>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(page, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    page.open(attention_head_view(attention(), TOKENS))

    colors = page.run("const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]")
    ink, paper = (sum(int(part) for part in color[4:-1].split(",")) for color in colors)
    assert (ink < 120 and paper > 700) if scheme == "light" else (ink > 600 and paper < 120)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
