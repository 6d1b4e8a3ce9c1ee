import numpy as np
import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.visualization import flow_graph_figure

TOKENS = ["a", "b", "$c"]


def lines(figure):
    """The edges that are drawn, as (layer, key, query)."""
    segments = figure.axes[0].collections[0].get_segments()
    return {(int(start[0]), int(start[1]), int(end[1])) for start, end in segments}


def test_an_edge_goes_from_the_key_below_to_the_query_above():
    edges = torch.zeros(2, 3, 3)
    edges[0, 1, 2] = 0.5
    edges[1, 0, 1] = 0.25

    figure = flow_graph_figure(edges, TOKENS)

    assert lines(figure) == {(0, 2, 1), (1, 1, 0)}


def test_only_edges_that_lead_to_the_target_are_kept():
    edges = torch.zeros(2, 3, 3)
    edges[0, 1, 2] = edges[1, 0, 1] = edges[0, 2, 2] = edges[1, 2, 0] = 0.5

    figure = flow_graph_figure(edges, TOKENS, target=0)

    assert lines(figure) == {(0, 2, 1), (1, 1, 0)}
    assert figure.axes[0].get_title() == "to “a” at the top"


def test_small_edges_are_left_out_and_the_figure_says_so():
    torch.manual_seed(0)
    edges = torch.rand(2, 20, 20)

    figure = flow_graph_figure(edges, [str(i) for i in range(20)])

    drawn = lines(figure)
    assert 50 <= len(drawn) <= 60
    smallest = min(float(edges[layer, query, key]) for layer, key, query in drawn)
    assert figure.get_supxlabel() == f"{len(drawn)} edges of at least {100 * smallest:.1f} %; smaller ones are left out"


def test_larger_values_are_thicker_and_darker():
    edges = np.zeros((1, 2, 2))
    edges[0] = [[1.0, 0.01], [0.0, 0.25]]

    collection = flow_graph_figure(edges, ["a", "b"], hide_below=0.0).axes[0].collections[0]

    assert np.all(np.diff(collection.get_linewidths()) > 0)
    np.testing.assert_allclose(collection.get_colors()[:, 3], [0.12, 0.5, 1.0])


def test_values_stand_beside_the_names_of_the_input():
    figure = flow_graph_figure(torch.full((1, 3, 3), 0.5), TOKENS, input_values=torch.tensor([0.627, 0.0005, 0.0]))

    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["62.7 %  a", "0.05 %  b", r"0.0 %  \$c"]


def test_a_graph_without_edges_says_so():
    figure = flow_graph_figure(torch.zeros(1, 3, 3), TOKENS, unit="flow")

    assert figure.get_supxlabel() == "there is no edge to draw"


@pytest.mark.parametrize(
    ("edges", "options", "said"),
    [
        (torch.zeros(1, 2, 2), {}, r"\(layer, 3, 3\) for 3 tokens, found \(1, 2, 2\)"),
        (-torch.ones(1, 3, 3), {}, "not negative"),
        (torch.ones(1, 3, 3), {"target": 3}, "one of the 3 tokens"),
        (torch.ones(1, 3, 3), {"input_values": torch.ones(2)}, "3 input_values"),
    ],
)
def test_what_does_not_fit_is_refused(edges, options, said):
    with pytest.raises(InputError, match=said):
        flow_graph_figure(edges, TOKENS, **options)
