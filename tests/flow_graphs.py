"""Random layered graphs of many kinds, and maximum flows by networkx as the oracle."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch


def _soft(scale):
    return lambda shape, generator: (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1)


def _one_hot(shape, generator):
    chosen = torch.randint(shape[-1], shape[:-1], generator=generator)
    return torch.nn.functional.one_hot(chosen, shape[-1]).double()


def _causal(shape, generator):
    attention = _soft(2)(shape, generator).tril()
    return attention / attention.sum(-1, keepdim=True)


def _zero_rows(shape, generator):
    kept = torch.rand((*shape[:-1], 1), generator=generator) < 0.7
    return _soft(3)(shape, generator) * kept


def _zero_columns(shape, generator):
    kept = torch.rand((*shape[:-2], 1, shape[-1]), generator=generator) < 0.7
    return _soft(3)(shape, generator) * kept


def _sparse(shape, generator):
    return _soft(1)(shape, generator) * (torch.rand(shape, generator=generator) < 0.4)


def _any_size(shape, generator):
    return 10 * torch.rand(shape, generator=generator, dtype=torch.float64) ** 3


def _ties(shape, generator):
    return torch.randint(0, 4, shape, generator=generator).double()


def _identity(shape, generator):
    return torch.eye(shape[-1], dtype=torch.float64).expand(shape).contiguous()


def _sink(shape, generator):
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    scores[..., 0] += 4
    return scores.softmax(-1)


KINDS = {
    "even": _soft(0.3),
    "soft": _soft(2),
    "peaked": _soft(8),
    "very_peaked": _soft(30),
    "one_hot": _one_hot,
    "causal": _causal,
    "zero_rows": _zero_rows,
    "zero_columns": _zero_columns,
    "sparse": _sparse,
    "not_stochastic": _any_size,
    "integer_ties": _ties,
    "identity": _identity,
    "sink_token": _sink,
}


def random_attention(kind, layers, batch, tokens, seed=0):
    """Attention ``layer batch token token`` of a kind."""
    return KINDS[kind]((layers, batch, tokens, tokens), torch.Generator().manual_seed(seed))


def layered_graph(capacities):
    """The graph of one sample for networkx; nodes are (layer, token)."""
    depth, tokens, _ = capacities.shape
    graph = nx.DiGraph()
    graph.add_nodes_from((layer, token) for layer in range(depth + 1) for token in range(tokens))
    for layer, query, key in zip(*np.nonzero(capacities), strict=True):
        graph.add_edge((layer, key), (layer + 1, query), capacity=float(capacities[layer, query, key]))
    return graph


def reference_flow(capacities, source, output):
    """Maximum flow from an input token to an output token."""
    return nx.maximum_flow_value(layered_graph(capacities), (0, source), (len(capacities), output))


def reference_flow_of_set(capacities, sources, output):
    """Maximum flow from some input tokens together to an output token."""
    graph = layered_graph(capacities)
    graph.add_node("source")
    for token in sources:
        graph.add_edge("source", (0, token), capacity=float(capacities[0, :, token].sum()))
    return nx.maximum_flow_value(graph, "source", (len(capacities), output))
