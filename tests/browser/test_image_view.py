import pytest
import torch

from attrib_plugin.visualization import attention_image_view

ROWS, COLUMNS, PREFIX = 2, 3, 2


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(0)
    return [torch.softmax(2 * torch.randn(4, 8, 8), -1) for _ in range(3)]


@pytest.fixture
def view(page, attention):
    page.open(
        attention_image_view(
            attention, torch.rand(20, 30, 3), grid=(ROWS, COLUMNS), prefix_tokens=PREFIX, prefix_names=["CLS", "reg"]
        )
    )
    return page


def percent(share):
    return f"{100 * float(share):.1f}".rstrip("0").rstrip(".")


def click_patch(page, row, column):
    canvas = page.one(".stage canvas")
    width, height = canvas.size["width"], canvas.size["height"]
    page.point_at(canvas, width * ((column + 0.5) / COLUMNS - 0.5), height * ((row + 0.5) / ROWS - 0.5), click=True)


def test_the_first_token_of_the_last_layer_is_shown_first(view, attention):
    row = attention[2].mean(0)[0]

    assert "Layer 2, mean of 4 heads: “CLS” gives" in view.readout
    assert percent(row[PREFIX:].max()) in view.readout
    assert [text.split()[0] for text in view.texts(".prefix button")] == ["CLS", "reg"]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 0), (0, 2), (1, 2)])
def test_a_clicked_patch_shows_where_it_attends(view, attention, row, column):
    before = view.picture(".stage canvas")

    click_patch(view, row, column)

    patches = attention[2].mean(0)[PREFIX + row * COLUMNS + column, PREFIX:]
    best = int(patches.argmax())
    assert f"the patch in row {row}, column {column} gives" in view.readout
    assert f"most to the patch in row {best // COLUMNS}, column {best % COLUMNS}: " in view.readout
    shown = float(view.readout.rsplit(": ", 1)[1].rstrip(" %.")) / 100
    torch.testing.assert_close(shown, float(patches.max()), rtol=0, atol=1 / 510 + 5e-4)
    assert view.picture(".stage canvas") != before


def test_layer_and_head_are_chosen(view, attention):
    view.slide("Layer", 1)
    view.slide("Head", 3)
    view.all(".prefix button")[1].click()
    view.drawn()

    patches = attention[1][2][1, PREFIX:]
    shown = float(view.readout.rsplit(": ", 1)[1].rstrip(" %.")) / 100
    assert view.readout.startswith("Layer 1, head 2: “reg” gives")
    torch.testing.assert_close(shown, float(patches.max()), rtol=0, atol=1 / 510 + 5e-4)


def test_a_small_map_chooses_its_head(view):
    view.all(".side .maps button")[4].click()
    view.drawn()

    assert "Layer 2, head 3" in view.readout
    assert "3 of 0–3" in view.texts("output")


def test_the_other_direction_reads_columns(view, attention):
    click_patch(view, 1, 1)
    view.choose("is attended to by")

    column = attention[2].mean(0)[PREFIX:, PREFIX + 4]
    best = int(column.argmax())
    assert f"gets most attention from the patch in row {best // COLUMNS}, column {best % COLUMNS}" in view.readout


def test_patches_are_reached_by_arrow_keys(view):
    from selenium.webdriver.common.keys import Keys

    view.run("document.querySelector('.stage canvas').focus()")
    view.press(Keys.ARROW_RIGHT)
    view.press(Keys.ARROW_RIGHT)
    view.press(Keys.ARROW_DOWN)

    assert "the patch in row 1, column 1" in view.readout


def test_without_overlay_the_image_is_as_it_was(page, attention):
    pixels = torch.zeros(20, 30, 3)
    pixels[:, :10] = torch.tensor([1.0, 0.0, 0.0])
    page.open(attention_image_view(attention, pixels, grid=(ROWS, COLUMNS), prefix_tokens=PREFIX))

    page.slide("Overlay", 0)

    inside = (
        "return Array.from(document.querySelector('.stage canvas').getContext('2d').getImageData(20, 20, 1, 1).data)"
    )
    assert page.run(inside) == [255, 0, 0, 255]


def test_patches_lie_where_the_model_cut_them(page, attention):
    page.open(
        attention_image_view(attention, torch.rand(25, 40, 3), grid=(2, 3), prefix_tokens=PREFIX, patch_size=(10, 10))
    )
    canvas = page.one(".stage canvas")
    width, height = canvas.size["width"], canvas.size["height"]
    before = page.readout

    # Ten pixels at the right and five below belong to no patch.
    page.point_at(canvas, width / 2 - 5, 0, click=True)
    page.point_at(canvas, 0, height / 2 - 5, click=True)
    outside = page.readout
    page.point_at(canvas, width * (25 / 40 - 0.5), height * (15 / 25 - 0.5), click=True)

    assert outside == before
    assert "the patch in row 1, column 2" in page.readout
