"""One maximum flow and one minimum cut as a graph, for drawing and for study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attrib_plugin.functional.flow.network import check_attention, sample_network
from attrib_plugin.functional.flow.problems import CERTIFIED, Middle, Problems, solve_certified
from attrib_plugin.functional.flow.tokens import output_tokens

if TYPE_CHECKING:
    import networkx  # type: ignore[import-untyped]  # networkx ships no types
    from jaxtyping import Bool, Float
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FlowGraph:
    """A maximum flow from input to output, and a minimum cut.

    Nodes are (layer, token): layer 0 holds the input tokens, layer L the output tokens.

    Attributes:
        value: The maximum flow; the capacity of the cut.
        capacity: Capacity of the edge from token ``key`` below each layer to token ``query`` above it.
        flow: Flow on each edge; one of the maximum flows, which are many.
        source_side: Nodes on the source side of the minimum cut, the smallest such side.
        source: The input token; ``None`` for all of them together.
        output: The output token.
    """

    value: float
    capacity: Float[Tensor, "layer query key"]
    flow: Float[Tensor, "layer query key"]
    source_side: Bool[Tensor, "node_layer token"]
    source: int | None
    output: int

    @property
    def cut(self) -> Bool[Tensor, "layer query key"]:
        """Edges of the minimum cut; their capacities sum to the value, and the flow fills them."""
        crossing = self.source_side[:-1, None, :] & ~self.source_side[1:, :, None]
        return crossing & (self.capacity > 0)

    def to_networkx(self) -> networkx.DiGraph:
        """The graph for networkx.

        Returns:
            A directed graph with nodes (layer, token) that have ``layer``, ``token`` and ``source_side``, and edges of
            positive capacity that have ``capacity``, ``flow`` and ``in_cut``.

        Raises:
            ImportError: If networkx is not installed.
        """
        try:
            import networkx as nx
        except ImportError as error:
            raise ImportError(
                "networkx is needed for this and is not installed. Install it: pip install networkx"
            ) from error

        graph = nx.DiGraph(value=self.value, source=self.source, output=self.output)
        for layer, tokens in enumerate(self.source_side.tolist()):
            for token, inside in enumerate(tokens):
                graph.add_node((layer, token), layer=layer, token=token, source_side=inside)
        cut = self.cut
        for layer, query, key in self.capacity.nonzero().tolist():
            graph.add_edge(
                (layer, key),
                (layer + 1, query),
                capacity=float(self.capacity[layer, query, key]),
                flow=float(self.flow[layer, query, key]),
                in_cut=bool(cut[layer, query, key]),
            )
        return graph


def flow_graph(
    attention: Float[Tensor, "layer batch token token"],
    *,
    output: int,
    source: int | None = None,
    residual: float | None = 0.5,
    sample: int = 0,
) -> FlowGraph:
    """A maximum flow from an input token to an output token, edge by edge, with a minimum cut.

    Cost: one flow, without numba; in float64.

    Args:
        attention: Non-negative, fused over heads; rows are queries.
        output: The output token, counted from 0 or from -1 backwards.
        source: The input token; ``None`` is all input tokens together.
        residual: As in :func:`~attrib_plugin.functional.attention_flow`.
        sample: Which sample of the batch.

    Returns:
        Capacities, flows and cut.

    Raises:
        ValueError: If an argument is impossible.
        ArithmeticError: If the flow could not be certified.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, section 3; Ford and Fulkerson 1956 (the cut).
    """
    check_attention(attention)
    if not 0 <= sample < attention.shape[1]:
        raise ValueError(f"sample must be one of the {attention.shape[1]} in the batch, counted from 0, not {sample}.")
    (target,) = output_tokens(output, attention.shape[-1])
    network = sample_network(attention, sample, residual)
    supply, demand = np.zeros((2, network.n_tokens))
    senders = slice(None) if source is None else output_tokens(source, network.n_tokens)
    # What the source could send twice over, so that a cut is one of edges.
    supply[senders] = 2.0 * network.source_bounds[senders]
    demand[target] = 2.0 * network.output_bounds[target]
    middle = Middle(network.layers, network.layers.copy(), network.spans, network.small_threshold)
    value = _value(middle, supply, demand)
    flow, side = _maximum_flow(middle, supply, demand, value)
    side[0, senders] = True
    return FlowGraph(
        value=value,
        capacity=torch.from_numpy(middle.capacities),
        flow=torch.from_numpy(flow),
        source_side=torch.from_numpy(side),
        source=None if source is None else output_tokens(source, network.n_tokens)[0],
        output=target,
    )


def _value(middle: Middle, supply: NDArray[np.float64], demand: NDArray[np.float64]) -> float:
    from attrib_plugin.functional.flow import scipy_engine

    first = np.zeros(1, np.int64)
    bound = np.array([min(supply.sum(), demand.sum()) / 2.0])
    problem = Problems(supply[None], demand[None], first, first, bound)
    return float(solve_certified(scipy_engine.solve, middle, problem, lambda solved: None).cuts[0])


def _maximum_flow(
    middle: Middle, supply: NDArray[np.float64], demand: NDArray[np.float64], value: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    from attrib_plugin.functional.flow.scipy_engine import cut_capacity, leave_flow, residual_reach

    if value <= 0.0:
        return np.zeros_like(middle.capacities), residual_reach(middle.capacities, middle.capacities, supply, 0.0)
    # No edge carries more than the whole flow; so its digits are kept.
    capped = np.minimum(middle.capacities, value)
    work = Middle(capped, capped.copy(), middle.spans, 0.0)
    leave_flow(work, np.minimum(supply, 2.0 * value), np.minimum(demand, 2.0 * value), value)
    flow = capped - work.work
    for threshold in (1e-15, 1e-13, 1e-12, 1e-11, 1e-10):
        side = residual_reach(middle.capacities, middle.capacities - flow, supply, threshold * value)
        capacity = cut_capacity(middle.capacities, side, supply, demand)
        if abs(capacity - value) <= CERTIFIED * value:
            return flow, side
    raise ArithmeticError(f"No cut of the capacity of the flow, {value!r}, was found; the last has {capacity!r}.")
