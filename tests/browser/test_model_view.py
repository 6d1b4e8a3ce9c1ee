import torch

from attrib_plugin.visualization import attention_model_view

TOKENS = ["[CLS]", "a", "gentle", "film"]


def attention():
    torch.manual_seed(0)
    # Heads were pruned from the second layer.
    return [torch.softmax(2 * torch.randn(heads, 4, 4), -1) for heads in (5, 3)]


def test_every_head_has_a_map_and_a_label(page):
    page.open(attention_model_view(attention(), TOKENS))

    labels = [button.get_attribute("aria-label") for button in page.all(".maps button")]

    assert labels == [f"layer 0, head {head}" for head in range(5)] + [f"layer 1, head {head}" for head in range(3)]
    pictures = {page.picture(f'button[aria-label="{label}"] canvas') for label in labels}
    assert len(pictures) == 8


def test_a_small_map_has_the_brightness_of_its_attention(page):
    maps = attention()
    page.open(attention_model_view(maps, TOKENS))

    pixels = page.run(
        "return Array.from(document.querySelector('.maps canvas').getContext('2d').getImageData(0, 0, 4, 4).data)"
    )

    red = torch.tensor(pixels, dtype=torch.float64).reshape(4, 4, 4)[..., 0]
    share = (255 - red) / (255 - 0x5D)
    torch.testing.assert_close(share, (maps[0][0] / maps[0][0].max()).double(), rtol=0, atol=0.012)


def test_a_click_enlarges_a_head_and_pointing_reads_it(page):
    maps = attention()
    page.open(attention_model_view(maps, TOKENS))

    page.all(".maps button")[6].click()
    page.drawn()
    canvas = page.one("dialog canvas")
    size = canvas.size
    # The middle of the last cell: labels take the upper left margin.
    page.point_at(canvas, right=size["width"] / 2 - 8, down=size["height"] / 2 - 8)

    assert page.one("dialog h2").text == "Layer 1, head 1"
    name, shown = page.one("dialog .readout").text.split(":", 1)
    assert name == "“film” (3) attends to “film” (3)"
    share = float(shown.split("%")[0]) / 100
    torch.testing.assert_close(share, float(maps[1][1, 3, 3]), rtol=0, atol=1 / 510 + 5e-4)


def test_neighbouring_heads_and_cells_are_reached_from_the_dialog(page):
    from selenium.webdriver.common.keys import Keys

    page.open(attention_model_view(attention(), TOKENS))
    page.all(".maps button")[4].click()
    before = page.picture("dialog canvas")

    next(button for button in page.all("dialog button") if button.text == "layer ↓").click()
    page.drawn()
    moved = page.one("dialog h2").text
    page.run("document.querySelector('dialog canvas').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)

    assert moved == "Layer 1, head 2"
    assert page.picture("dialog canvas") != before
    assert page.one("dialog .readout").text.startswith("“a” (1) attends to “gentle” (2)")


def test_escape_closes_the_dialog_and_goes_back_to_the_map(page):
    from selenium.webdriver.common.keys import Keys

    page.open(attention_model_view(attention(), TOKENS))
    page.all(".maps button")[2].click()

    page.press(Keys.ESCAPE)

    assert not page.one("dialog").is_displayed()
    assert page.run("return document.activeElement.getAttribute('aria-label')") == "layer 0, head 2"


def test_one_scale_makes_weak_heads_paler(page):
    page.open(attention_model_view([torch.stack([torch.eye(4), torch.full((4, 4), 0.25)])], TOKENS))
    before = page.picture('button[aria-label="layer 0, head 1"] canvas')

    page.choose("one scale for all heads")

    assert page.picture('button[aria-label="layer 0, head 1"] canvas') != before
