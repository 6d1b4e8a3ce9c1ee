"""The graph of one flow: it is a flow, it is maximal, and the cut proves it."""

import networkx as nx
import pytest
import torch
from flow_graphs import KINDS, random_attention, reference_flow_of_set
from torch.testing import assert_close

from attrib_plugin.functional import attention_flow, flow_graph, mix_residual

EXACT = {"rtol": 0.0, "atol": 1e-12}
CASES = [(1, 4, 2, 0), (2, 5, 1, 1), (4, 6, 0, 5), (7, 5, 3, 2)]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize(("layers", "tokens", "source", "output"), CASES)


def scalar(value):
    return torch.tensor(float(value), dtype=torch.float64)


@every_kind
@every_case
def test_the_value_is_the_attention_flow(kind, layers, tokens, source, output):
    attention = random_attention(kind, layers, 2, tokens, seed=1)

    graph = flow_graph(attention, source=source, output=output, sample=1)

    assert_close(scalar(graph.value), attention_flow(attention)[1, output, source], **EXACT)


@every_kind
@every_case
def test_the_flow_respects_capacities_and_is_conserved(kind, layers, tokens, source, output):
    attention = random_attention(kind, layers, 1, tokens, seed=2)

    graph = flow_graph(attention, source=source, output=output)

    assert (graph.flow >= 0).all()
    assert (graph.flow <= graph.capacity + 1e-15).all()
    arriving, leaving = graph.flow.sum(2), graph.flow.sum(1)
    assert_close(arriving[:-1], leaving[1:], **EXACT)
    assert_close(arriving[-1], scalar(graph.value) * torch.eye(tokens, dtype=torch.float64)[output], **EXACT)
    assert_close(leaving[0], scalar(graph.value) * torch.eye(tokens, dtype=torch.float64)[source], **EXACT)


@every_kind
@every_case
def test_the_cut_separates_and_has_the_capacity_of_the_flow(kind, layers, tokens, source, output):
    attention = random_attention(kind, layers, 1, tokens, seed=3)

    graph = flow_graph(attention, source=source, output=output, residual=None)

    assert graph.source_side[0, source]
    assert not graph.source_side[-1, output]
    assert_close(graph.capacity[graph.cut].sum(), scalar(graph.value), **EXACT)
    assert_close(graph.flow[graph.cut], graph.capacity[graph.cut], **EXACT)
    without = graph.to_networkx()
    without.remove_edges_from([edge for edge, inside in nx.get_edge_attributes(without, "in_cut").items() if inside])
    assert not nx.has_path(without, (0, source), (layers, output)) or graph.value == 0


@every_kind
def test_the_flow_from_all_tokens_together_agrees_with_networkx(kind):
    attention = random_attention(kind, 4, 1, 5, seed=4)
    capacities = mix_residual(attention[:, 0])

    graph = flow_graph(attention, output=3)

    assert graph.source is None
    assert graph.value == pytest.approx(reference_flow_of_set(capacities.numpy(), range(5), 3), rel=1e-12)


def test_networkx_gets_every_positive_edge_and_agrees():
    graph = flow_graph(random_attention("sparse", 3, 1, 5, seed=5), source=1, output=-1)

    drawn = graph.to_networkx()

    assert drawn.number_of_nodes() == 4 * 5
    assert drawn.number_of_edges() == int((graph.capacity > 0).sum())
    assert nx.maximum_flow_value(drawn, (0, 1), (3, 4)) == pytest.approx(graph.value, rel=1e-12)
    assert drawn.graph["output"] == 4
    assert {"layer": 2, "token": 3} == {name: drawn.nodes[2, 3][name] for name in ("layer", "token")}
    flows = nx.get_edge_attributes(drawn, "flow")
    assert sum(flow for (_, head), flow in flows.items() if head == (3, 4)) == pytest.approx(graph.value, rel=1e-12)


@pytest.mark.parametrize("sample", [-1, 2])
def test_a_sample_that_does_not_exist_is_refused(sample):
    with pytest.raises(ValueError, match="sample must be one of the 2 in the batch"):
        flow_graph(torch.ones(2, 2, 3, 3), source=0, output=0, sample=sample)


def test_tokens_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="tokens between 0 and 2"):
        flow_graph(torch.ones(2, 1, 3, 3), source=3, output=0)
    with pytest.raises(ValueError, match="tokens between 0 and 2"):
        flow_graph(torch.ones(2, 1, 3, 3), source=0, output=3)
