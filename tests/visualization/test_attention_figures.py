import io

import numpy as np
import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.visualization import AttentionMap, attention_figure, head_figure, layer_rows_figure

TOKENS = ["[CLS]", "Мама", "мы", "##ла", "$5", "[SEP]"]


def maps(*shape):
    return torch.softmax(torch.randn(*shape), -1)


def images(figure):
    """The arrays that are drawn, with their axes, colour bars left out."""
    return [(axis, axis.images[0]) for axis in figure.axes if axis.images]


def overlaps(figure, texts):
    """Pairs of texts that lie on each other when the figure is drawn."""
    figure.savefig(io.BytesIO())
    boxes = [text.get_window_extent().shrunk(0.9, 0.9) for text in texts if text.get_text() and text.get_visible()]
    return [(one, other) for i, one in enumerate(boxes) for other in boxes[i + 1 :] if one.overlaps(other)]


def test_a_heat_map_holds_the_values_with_queries_down():
    attention = maps(6, 6)

    figure = attention_figure([AttentionMap("layer 0, head 1", attention)], TOKENS)

    ((axis, image),) = images(figure)
    np.testing.assert_allclose(image.get_array(), attention.double(), rtol=1e-12)
    assert [one.get_text() for one in axis.get_yticklabels()] == [*TOKENS[:4], r"\$5", "[SEP]"]
    assert axis.get_title() == "layer 0, head 1"
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((0.0, float(attention.max())))


def test_maps_side_by_side_share_one_scale_unless_told_otherwise():
    pair = [AttentionMap("first", maps(6, 6)), AttentionMap("last", 0.1 * maps(6, 6))]

    shared, own = attention_figure(pair, TOKENS), attention_figure(pair, TOKENS, shared=False)

    assert len({image.norm.vmax for _, image in images(shared)}) == 1
    assert [image.norm.vmax for _, image in images(own)] == pytest.approx([float(one.values.max()) for one in pair])


def test_keys_can_be_another_sequence():
    figure = attention_figure([AttentionMap("cross", maps(2, 3))], ["a", "b"], key_tokens=["x", "y", "z"])

    ((axis, _),) = images(figure)
    assert [one.get_text() for one in axis.get_xticklabels()] == ["x", "y", "z"]


def test_small_maps_carry_their_numbers_on_legible_ink():
    figure = attention_figure([AttentionMap("map", torch.tensor([[0.9, 0.1], [0.0, 1.0]]))], ["a", "b"])

    ((axis, _),) = images(figure)
    assert [(one.get_text(), one.get_color()) for one in axis.texts] == [
        (".90", "#ffffff"),
        (".10", "#000000"),
        (".00", "#000000"),
        ("1.0", "#ffffff"),
    ]


def test_what_is_no_number_is_blank_and_said():
    attention = maps(6, 6)
    attention[2, 3] = float("nan")

    figure = attention_figure([AttentionMap("map", attention)], TOKENS)

    ((axis, image),) = images(figure)
    assert image.get_array().mask.sum() == 1
    assert axis.get_title() == "map (1 of 36 not a number, grey)"


@pytest.mark.parametrize("count", [1, 6, 40, 300])
def test_names_of_tokens_do_not_run_into_each_other(count):
    figure = attention_figure([AttentionMap("a map", maps(count, count))], ["token"] * count, title="A title")

    ((axis, _),) = images(figure)
    assert overlaps(figure, axis.get_yticklabels()) == []
    assert overlaps(figure, [axis.title, figure._suptitle]) == []


def test_nothing_is_cut_off_beside_or_above_the_figure():
    pair = [AttentionMap("first", maps(16, 16)), AttentionMap("last", maps(16, 16))]
    figure = attention_figure(pair, [f"a long token {i}" for i in range(16)], title="A title")

    figure.savefig(io.BytesIO(), dpi=figure.dpi)

    drawn = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert drawn.x0 >= -0.01
    assert drawn.y0 >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= height + 0.01


def test_every_head_of_every_layer_has_its_place():
    attention = [maps(4, 5, 5), maps(3, 5, 5)]

    figure = head_figure(attention, title="model")

    assert len(images(figure)) == 7
    assert [axis.get_title() for axis in figure.axes[:4]] == ["head 0", "head 1", "head 2", "head 3"]
    assert [figure.axes[i].get_ylabel() for i in (0, 4)] == ["layer 0", "layer 1"]
    np.testing.assert_allclose(images(figure)[5][1].get_array(), attention[1][1].double(), rtol=1e-12)


def test_layers_and_heads_can_be_chosen_from_either_end():
    attention = [maps(4, 5, 5) for _ in range(3)]

    figure = head_figure(attention, list("abcde"), layers=[-1], heads=[0, -1], shared=True)

    drawn = images(figure)
    np.testing.assert_allclose(drawn[1][1].get_array(), attention[2][3].double(), rtol=1e-12)
    assert drawn[0][1].norm.vmax == drawn[1][1].norm.vmax
    assert [one.get_text() for one in drawn[0][0].get_yticklabels()] == list("abcde")


def test_rows_of_layers_stand_with_the_input_side_below():
    rows = maps(3, 6)

    figure = layer_rows_figure(rows, TOKENS, title="What [CLS] attends to")

    ((axis, image),) = images(figure)
    np.testing.assert_allclose(image.get_array(), rows.double(), rtol=1e-12)
    assert axis.get_ylim()[0] < axis.get_ylim()[1]
    assert [one.get_text() for one in axis.get_yticklabels()] == ["layer 0", "layer 1", "layer 2"]


def test_faint_layers_can_have_a_scale_of_their_own():
    rows = torch.tensor([[0.1, 0.05], [0.4, 0.8]])

    figure = layer_rows_figure(rows, ["a", "b"], row_scale=True)

    ((_, image),) = images(figure)
    np.testing.assert_allclose(image.get_array(), [[1.0, 0.5], [0.5, 1.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: attention_figure([], ["a"]), "at least one map"),
        (lambda: attention_figure([AttentionMap("m", maps(2, 2))], ["a"]), r"\(1, 1\), found \(2, 2\) for 'm'"),
        (
            lambda: attention_figure([AttentionMap("m", maps(1, 1)), AttentionMap("n", maps(1, 1), "signed")], ["a"]),
            "shared=False",
        ),
        (lambda: head_figure([maps(2, 3, 3)], layers=[1]), "layer must be one of the 1 from 0 to 0, not 1"),
        (lambda: head_figure([maps(2, 3, 3)], heads=[]), "at least one head"),
        (lambda: layer_rows_figure(maps(2, 3), ["a"]), r"each of the 1 tokens in every layer, found \[3, 3\]"),
        (lambda: layer_rows_figure(maps(2, 1), ["a"], row_names=["one"]), "2 row_names"),
    ],
)
def test_what_does_not_fit_is_refused(draw, said):
    with pytest.raises(InputError, match=said):
        draw()


def test_no_figure_is_left_in_pyplot():
    import matplotlib.pyplot as plt

    attention_figure([AttentionMap("map", maps(2, 2))], ["a", "b"])

    assert plt.get_fignums() == []
