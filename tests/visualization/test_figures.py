import io

import numpy as np
import pytest

from attrib_plugin.errors import InputError
from attrib_plugin.visualization import AGAINST, FOR, Panel, image_figure, word_figure
from attrib_plugin.visualization.colors import GAP


def drawn(figure):
    """The figure as an array of pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def pixels(height=24, width=40):
    return np.random.default_rng(0).random((height, width, 3))


def maps(figure):
    """The axes of image and maps, those of colour bars left out."""
    return [axis for axis in figure.axes if axis.get_title()]


def rgb(color):
    return [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def test_every_patch_lies_on_its_own_pixels():
    patches = np.zeros((3, 5))
    patches[0, 4] = 1.0

    figure = image_figure(pixels(), [Panel("map", patches)])

    image, overlay = maps(figure)[1].get_images()
    assert overlay.get_extent() == image.get_extent() == [-0.5, 39.5, 23.5, -0.5]
    colors = overlay.get_array()
    np.testing.assert_allclose(colors[0, 4], [*rgb(FOR), 1.0], atol=1e-6)
    # Where there is no relevance, the image shows through white.
    np.testing.assert_allclose(colors[1, 1], [1.0, 1.0, 1.0, 0.15], atol=1e-6)


def test_a_signed_map_has_zero_in_the_middle_and_is_hatched_against():
    patches = np.array([[-2.0, 4.0, 0.0, -0.1]])

    figure = image_figure(pixels(), [Panel("map", patches, tone="signed")])

    axis, bar = maps(figure)[1], figure.axes[-1]
    colors = axis.get_images()[1].get_array()
    half = [(1 + one) / 2 for one in rgb(AGAINST)]
    np.testing.assert_allclose(colors[0, 0, :3], half, atol=0.01)
    np.testing.assert_allclose(colors[0, 1, :3], rgb(FOR), atol=1e-6)
    np.testing.assert_allclose(colors[0, 2, :3], 1.0, atol=0.01)
    (hatched,) = axis.collections
    assert hatched.get_hatch() == "////"
    assert len(hatched.get_paths()) == 1
    bars = [axis for axis in figure.axes if axis.get_xlabel().startswith("against")]
    assert [label.get_text() for label in bars[0].get_xticklabels()] == ["-4", "0", "4"], bar


@pytest.mark.parametrize("tone", ["for", "signed"])
@pytest.mark.parametrize(
    ("patches", "said"),
    [
        (np.zeros((2, 2)), "zero everywhere"),
        (np.full((2, 2), np.nan), "no value is a number"),
        (np.array([[np.nan, 1.0]]), "1 of 2 not a number, grey"),
        (np.full((2, 2), 3.0), "3 everywhere"),
        (-np.eye(2), "map"),
    ],
)
def test_zero_constant_nan_and_negative_maps_have_a_look(patches, said, tone):
    figure = image_figure(pixels(), [Panel("map", patches, tone)])

    assert said in maps(figure)[1].get_title()
    assert drawn(figure).size > 0


def test_what_is_no_number_is_grey_and_crossed():
    figure = image_figure(pixels(), [Panel("map", np.array([[np.nan, 1.0]]))])

    axis = maps(figure)[1]
    np.testing.assert_allclose(axis.get_images()[1].get_array()[0, 0], [*rgb(GAP), 1.0], atol=1e-6)
    assert axis.collections[0].get_hatch() == "xxxx"


def test_a_map_without_overlay_stands_by_itself():
    figure = image_figure(pixels(), [Panel("map", np.eye(2))], overlay=False)

    (image,) = maps(figure)[1].get_images()
    assert image.get_array()[0, 1].tolist() == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 2)), (4, (1, 5)), (5, (2, 5)), (9, (2, 5))])
def test_several_maps_stand_side_by_side(count, shape):
    panels = [Panel(f"map {number}", np.eye(3)) for number in range(count)]

    figure = image_figure(pixels(), panels, title="cat")

    assert [axis.get_title() for axis in maps(figure)] == ["cat", *(panel.title for panel in panels)]
    assert len(figure.axes) == 2 * shape[0] * shape[1]


@pytest.mark.parametrize(
    ("count", "title"), [(1, "map"), (7, "a title that is long enough for two lines or more, glyphs")]
)
def test_nothing_is_cut_off_at_the_edges(count, title):
    figure = image_figure(np.full((40, 40, 3), 0.5), [Panel(title, np.eye(3), "signed")] * count)

    drawn(figure)

    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_maps_can_share_a_scale():
    panels = [Panel("one", np.eye(2)), Panel("two", 0.5 * np.eye(2))]

    figure = image_figure(pixels(), panels, shared=True)

    assert maps(figure)[2].get_images()[1].get_array()[0, 0, 3] == pytest.approx(0.15 + 0.85 * 0.5)
    with pytest.raises(InputError, match="shared=False"):
        image_figure(pixels(), [*panels, Panel("three", np.eye(2), "share")], shared=True)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((3, 8, 8)), r"permute\(1, 2, 0\)"),
        (np.full((8, 8, 3), 2.5), "undo the normalisation"),
        (np.full((8, 8, 3), np.nan), "between 0 and 1"),
    ],
)
def test_an_image_that_cannot_be_shown_is_refused(image, said):
    with pytest.raises(InputError, match=said):
        image_figure(image, [Panel("map", np.eye(2))])


def test_a_map_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"\(row, column\) for 'map', found \(1, 2, 2\)"):
        image_figure(pixels(), [Panel("map", np.ones((1, 2, 2)))])


def test_a_picture_is_the_same_as_it_was():
    # Drawn colours, not rendered pixels, would miss what lies on top; the tolerance is for how releases of matplotlib
    # place and smooth: the mean over blocks of the map may differ by 6 of 255.
    patches = np.array([[1.0, 0.0], [-1.0, 0.5]])
    figure = image_figure(np.full((40, 40, 3), 0.5), [Panel("map", patches, "signed")])
    picture = drawn(figure)

    box = maps(figure)[1].get_window_extent()
    scale = 60 / figure.dpi
    left, right = (round(one * scale) for one in (box.x0, box.x1))
    top, bottom = (round(picture.shape[0] - one * scale) for one in (box.y1, box.y0))
    part = picture[top:bottom, left:right]
    blocks = [half.mean((0, 1)) for rows in np.array_split(part, 2) for half in np.array_split(rows, 2, axis=1)]
    np.testing.assert_allclose(blocks[0], [194, 87, 12], atol=6)
    np.testing.assert_allclose(blocks[1], [223, 223, 223], atol=6)
    # Blue under white hatching is lighter than blue, and stays blue.
    assert blocks[2][2] > 168
    assert blocks[2][2] > blocks[2][0] + 40


def test_words_stand_in_the_order_of_the_text_with_dollars_as_dollars():
    figure = word_figure(["a $5", "film$"], np.array([1.0, -2.0]), title="method", tone="signed")

    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [r"a \$5", r"film\$"]
    assert axis.yaxis_inverted()
    assert drawn(figure).size > 0


def test_no_figure_is_left_in_pyplot():
    import matplotlib.pyplot as plt

    word_figure(["a"], np.array([1.0]), title="method", tone="for")

    assert plt.get_fignums() == []


def test_long_texts_stand_in_columns():
    figure = word_figure(["word"] * 130, np.linspace(-1, 1, 130), title="method", tone="signed")

    assert [len(axis.get_yticklabels()) for axis in figure.axes] == [44, 44, 42]


def test_evidence_against_is_hatched():
    figure = word_figure(["a", "b"], np.array([1.0, -1.0]), title="method", tone="signed")

    assert [bar.get_hatch() for bar in figure.axes[0].patches] == [None, "////"]


@pytest.mark.parametrize(("words", "values"), [([], []), (["a"], [float("nan")]), (["a", "b"], [0.0, 0.0])])
def test_words_without_values_have_a_look(words, values):
    figure = word_figure(words, np.array(values), title="method", tone="for")

    assert drawn(figure).size > 0
    assert "(" in figure.get_suptitle()


def test_words_and_values_must_fit():
    with pytest.raises(InputError, match="2 words"):
        word_figure(["a", "b"], np.zeros(1), title="method", tone="for")


def test_any_word_and_title_is_drawn():
    words = ["我", "🎬", "שלום", "$x_1^2$", "\n", "  ", "Donaudampfschifffahrtsgesellschaftskapitän"]

    figure = word_figure(words, np.arange(7.0), title="<b>$title$ 我", tone="for")

    assert drawn(figure).size > 0
