import numpy as np
import pytest

from attrib_plugin.errors import InputError
from attrib_plugin.visualization import ImageRow, Panel, TextRow, image_comparison, image_multiples, text_comparison


def row_of(n_panels, failures=None, values=None):
    patches = np.linspace(-1, 1, 6).reshape(2, 3) if values is None else values
    panels = [Panel(f"method {number}", patches, "signed") for number in range(n_panels)]
    return ImageRow(np.full((8, 12, 3), 0.5), "explained: cat", panels, failures or {})


def titles(figure):
    return [axis.get_title() for axis in figure.subfigs[0].axes if axis.get_title()]


@pytest.mark.parametrize(("n_rows", "n_panels", "shape"), [(1, 3, (1, 4)), (1, 7, (2, 4)), (2, 7, (2, 8))])
def test_maps_stand_beside_their_image_in_a_common_order(n_rows, n_panels, shape):
    figure = image_comparison([row_of(n_panels)] * n_rows)

    axes = figure.subfigs[0].axes
    assert len(axes) == shape[0] * shape[1]
    assert titles(figure)[: n_panels + 1] == ["explained: cat", *(f"method {number}" for number in range(n_panels))]


def test_the_first_image_names_the_methods_for_all():
    figure = image_comparison([row_of(7)] * 2)

    assert [axis.get_title().strip() for axis in figure.subfigs[0].axes[9:]] == [""] * 7


def test_patches_lie_on_their_own_pixels():
    figure = image_comparison([row_of(1)])

    image, gray, patches = (
        figure.subfigs[0].axes[0].images[0],
        figure.subfigs[0].axes[1].images[0],
        figure.subfigs[0].axes[1].images[1],
    )
    assert image.get_extent() == gray.get_extent() == patches.get_extent()


def test_a_method_that_failed_has_a_place_that_says_so():
    figure = image_comparison([row_of(1, {"broken": "no $luck today"})])

    axis = figure.subfigs[0].axes[2]
    assert axis.get_title() == "broken"
    assert r"no \$luck today" in axis.texts[0].get_text().replace("\n", " ")


def test_an_empty_map_is_said_to_be_empty():
    figure = image_comparison([row_of(1, values=np.zeros((2, 3)))])

    assert "zero everywhere" in figure.subfigs[0].axes[1].get_title().replace("\n", " ")


def test_the_legend_names_each_kind_of_value_once():
    rows = [TextRow("one", np.ones(3), "for"), TextRow("two", np.ones(3), "for"), TextRow("three", np.ones(3), "size")]

    figure = text_comparison(["a", "b", "c"], rows, title="explained: cat")

    labels = [axis.get_xlabel() for axis in figure.subfigs[1].axes]
    assert labels == ["evidence for", "size of influence"]


@pytest.mark.parametrize(("n_words", "per_line"), [(1, [1]), (15, [15]), (16, [8, 8]), (31, [11, 11, 9])])
def test_words_are_spread_over_lines_evenly(n_words, per_line):
    rows = [TextRow("one", np.arange(n_words) - 0.5, "signed"), TextRow("two", np.empty(0), "signed", "failed")]

    figure = text_comparison([f"word{number}" for number in range(n_words)], rows, title="explained: cat")

    assert [len(axis.get_xticklabels()) for axis in figure.subfigs[0].axes] == per_line
    assert [label.get_text() for label in figure.subfigs[0].axes[0].get_yticklabels()] == ["one", "two (failed)"]


def test_the_largest_value_gets_the_full_ink_and_zero_none():
    figure = text_comparison(["a", "b"], [TextRow("one", np.array([0.0, -4.0]), "signed")], title="")

    picture = figure.subfigs[0].axes[0].images[0].get_array()
    np.testing.assert_allclose(picture[0, 0], 1.0)
    np.testing.assert_allclose(picture[0, 1] * 255, [0x1F, 0x5F, 0xA8])


def test_a_figure_is_drawn_without_a_word_from_matplotlib(capfd):
    import io

    image_comparison([row_of(2, values=np.full((2, 3), 1 / 3))]).savefig(io.BytesIO())

    assert capfd.readouterr() == ("", "")


def test_methods_stand_down_and_classes_across():
    panel = Panel("map", np.eye(2), "for")

    figure = image_multiples(
        np.full((8, 8, 3), 0.5),
        [[panel, panel], [panel, None]],
        rows=["one", "two"],
        columns=["cat", "$dog"],
        title="x",
    )

    axes = figure.subfigs[0].axes
    assert titles(figure) == ["x", "cat", r"\$dog"]
    assert [axes[place].get_ylabel() for place in (0, 3)] == ["one", "two"]
    assert [len(axis.images) for axis in axes] == [1, 2, 2, 1, 2, 0]
    with pytest.raises(InputError, match="1 rows of 2 maps"):
        image_multiples(np.zeros((8, 8, 3)), [[panel]], rows=["one"], columns=["cat", "dog"])


def test_a_gap_in_the_values_of_words_is_grey_and_said():
    figure = text_comparison(["a", "b"], [TextRow("one", np.array([float("nan"), 1.0]), "for")], title="")

    axis = figure.subfigs[0].axes[0]
    np.testing.assert_allclose(axis.images[0].get_array()[0, 0] * 255, 0xD9)
    assert axis.get_yticklabels()[0].get_text() == "one (1 of 2 not a number, grey)"


def test_words_against_are_hatched_where_the_bar_is():
    values = np.array([1.0, -0.1, -0.2, -1.0, float("nan")])

    figure = text_comparison(list("abcde"), [TextRow("one", values, "signed")], title="")

    (hatched,) = figure.subfigs[0].axes[0].collections
    assert hatched.get_hatch()
    assert [path.get_extents().x0 for path in hatched.get_paths()] == [1.5, 2.5]


@pytest.mark.parametrize("tone", ["for", "against", "share", "size"])
def test_words_of_one_direction_are_not_hatched(tone):
    figure = text_comparison(["a", "b"], [TextRow("one", np.array([1.0, -1.0]), tone)], title="")

    assert not figure.subfigs[0].axes[0].collections


def test_a_text_without_words_is_refused():
    with pytest.raises(InputError, match="at least one word"):
        text_comparison([], [TextRow("one", np.empty(0), "for")], title="")
