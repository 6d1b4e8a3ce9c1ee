import io

import numpy as np
import pytest

from attrib_plugin.visualization import Panel, image_figure, word_figure


def drawn(figure):
    """The figure as an array of pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def pixels(height=24, width=40):
    return np.random.default_rng(0).random((height, width, 3))


def test_every_patch_lies_on_its_own_pixels():
    patches = np.zeros((3, 5))
    patches[0, 4] = 1.0

    figure = image_figure(pixels(), [Panel("map", patches)])

    image, overlay = figure.axes[1].get_images()
    assert overlay.get_extent() == image.get_extent() == [-0.5, 39.5, 23.5, -0.5]
    np.testing.assert_array_equal(overlay.get_array(), patches)


def test_a_signed_map_has_zero_in_the_middle():
    figure = image_figure(pixels(), [Panel("map", np.array([[-1.0, 4.0]]), tone="signed")])

    norm = figure.axes[1].get_images()[1].norm
    assert (norm.vmin, norm.vmax) == (-4.0, 4.0)


@pytest.mark.parametrize(
    ("patches", "said"),
    [(np.zeros((2, 2)), "zero everywhere"), (np.full((2, 2), np.nan), "NaN left blank"), (-np.ones((2, 2)), "map")],
)
def test_zero_nan_and_negative_maps_have_a_look(patches, said):
    figure = image_figure(pixels(), [Panel("map", patches)])

    assert said in figure.axes[1].get_title()
    assert drawn(figure).size > 0


def test_several_maps_stand_side_by_side():
    figure = image_figure(pixels(), [Panel("one", np.ones((3, 5))), Panel("two", np.ones((3, 5)))], title="cat")

    assert [axis.get_title() for axis in figure.axes[:3]] == ["cat", "one", "two"]


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
