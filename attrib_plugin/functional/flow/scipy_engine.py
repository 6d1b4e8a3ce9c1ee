"""The flow engine without a compiler: the greedy steps in plain Python, the rest by SciPy, finished in float64.

SciPy's maximum flow has integer capacities. It is asked for the rest of a flow: residual capacities in units of a
2³⁰th of what can still be missing, rounded down. What it returns is a flow in float64 too, and what can be missing
afterwards is a ten-thousandth or less, so that two rounds reach rounding. The cut is read off in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attrib_plugin.functional.flow import kernels
from attrib_plugin.functional.flow.problems import CLOSED, NOTHING, Answers, Middle, Problems, Tick

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNITS = 2**30
MAX_ROUNDS = 6


class _Workspace:
    """Buffers for the steps in plain Python; memoryviews are read and written faster than arrays."""

    def __init__(self, middle: Middle) -> None:
        capacities, spans = middle.capacities, middle.spans
        self.depth, self.n = capacities.shape[:2]
        nodes = (self.depth + 1) * self.n
        self.diagonal = np.diagonal(capacities, axis1=1, axis2=2).flatten()
        self.vertical = self.diagonal.copy()
        self.live = np.empty((self.depth + 1, self.n + 1), np.int32)
        self.cursor, self.state = np.empty(nodes, np.int32), np.empty((self.depth + 1, self.n), np.int32)
        self.links, self.node = np.empty(self.n + 1, np.int32), np.empty(self.depth + 1, np.int64)
        self.asked, self.got = np.empty((2, self.depth + 1))
        self.touched = np.zeros(capacities.size // 4 + 4 * nodes + 1, np.int32)
        self.before = np.empty(len(self.touched))
        self.spans = tuple(part.reshape(-1) for part in spans.parts)
        self.everywhere = bool((spans.first == 0).all() and (spans.last == self.n - 1).all())

    def restart(self, supply: NDArray[np.float64], threshold: float) -> None:
        """All nodes live that take part; every token asks its own stream first."""
        tokens = np.arange(self.n)
        self.live[:, :-1] = np.where(self.state == 3, tokens, tokens + 1)
        self.live[0, :-1][supply <= threshold] = tokens[supply <= threshold] + 1
        self.live[:, -1] = self.n
        self.cursor[:] = -1


def solve(middle: Middle, problems: Problems, tick: Tick, *, with_sides: bool = False) -> Answers:
    """Solve problems one by one; see :class:`~problems.Engine`.

    Args:
        middle: The layers between supplies and demands.
        problems: Supplies, demands and bounds.
        tick: Told of progress.
        with_sides: Whether the sides of the cuts are asked for.

    Returns:
        Flows and cuts.
    """
    space, answers = _Workspace(middle), Answers.blank(problems, with_sides)
    for number, bound in enumerate(problems.bounds):
        one = _Problem(
            middle, space, problems.supplies[problems.supply[number]], problems.demands[problems.demand[number]]
        )
        cut = one.solve(float(bound))
        answers.flows[number], answers.cuts[number] = one.undo(), cut
        answers.sides[number % len(answers.sides)] = one.side
        tick(1)
    return answers


def leave_flow(middle: Middle, supply: NDArray[np.float64], demand: NDArray[np.float64], bound: float) -> None:
    """Find a maximum flow and leave it: ``middle.work`` is what is left of the capacities.

    Args:
        middle: The layers between supply and demand.
        supply: Capacity from the source to each token.
        demand: Capacity from each token to the output.
        bound: An upper bound of the flow.
    """
    one = _Problem(middle, _Workspace(middle), supply, demand)
    one.solve(bound)
    one.settle()


class _Problem:
    """One problem while it is solved; everything is changed in place.

    Args:
        middle: The layers between supply and demand.
        space: Buffers.
        supply: Capacity from the source to each token.
        demand: Capacity from each token to the output.
    """

    def __init__(
        self, middle: Middle, space: _Workspace, supply: NDArray[np.float64], demand: NDArray[np.float64]
    ) -> None:
        self.middle, self.space = middle, space
        space.vertical[:] = space.diagonal
        self.supply, self.demand = supply.copy(), demand.copy()
        self._prune()
        self.whole = self.supply.copy(), self.demand.copy()
        self.side = np.zeros(space.n, bool)

    def solve(self, bound: float) -> float:
        """Find a maximum flow, left in the working copy.

        Args:
            bound: An upper bound of the flow.

        Returns:
            Capacity of a cut.
        """
        bound = min(bound, float(self.supply.sum()), float(self.demand.sum()))
        if bound <= 0.0:
            return 0.0
        total = self._greedy(bound)
        return bound if bound - total <= 10 * CLOSED * bound else self._finish(total, bound)

    def undo(self) -> float:
        """Check the flow edge by edge, and take it back.

        Returns:
            Its value, less everything that breaks a capacity or gets lost at a node.
        """
        space, n = self.space, self.space.n
        count = int(space.touched[-1])
        capacities, residual = self.middle.capacities.reshape(-1), self.middle.work.reshape(-1)
        edges = (
            np.flatnonzero(capacities != residual) if count < 0 else np.unique(space.touched[:count]).astype(np.int64)
        )
        left, flow = residual[edges], capacities[edges] - residual[edges]
        sent, taken = self.whole[0] - self.supply, self.whole[1] - self.demand
        nodes = (space.depth + 1) * n
        net = np.zeros(nodes)
        net += np.bincount(edges // n + n, flow, nodes)
        net -= np.bincount(edges // (n * n) * n + edges % n, flow, nodes)
        own = space.diagonal - space.vertical
        net[n:] += own
        net[:-n] -= own
        net[:n] += sent
        net[-n:] -= taken
        negative = sum(float(np.maximum(-amounts, 0.0).sum()) for amounts in (left, flow, own, sent, taken))
        residual[edges] = capacities[edges]
        space.touched[-1] = 0
        return float(taken.sum()) - float(np.abs(net).sum()) - 2 * negative

    def settle(self) -> None:
        """Write the flow on the diagonals into the working copy; what was touched is no longer known."""
        space, residual = self.space, self.middle.work.reshape(-1)
        log = space.touched.data, space.before.data
        kernels.settle(space.n, space.depth, residual.data, space.diagonal.data, space.vertical.data, *log)
        space.touched[-1] = -1

    def _prune(self) -> None:
        space = self.space
        space.state[:] = 3
        if not (space.everywhere and self.demand.any() and self.supply.any()):
            first, last, column_first, column_last = (part.data for part in space.spans)
            state, links = space.state.reshape(-1).data, space.links.data
            supply, demand = self.supply.data, self.demand.data
            spans = first, last, column_first, column_last
            kernels.reachable(space.n, space.depth, spans, supply, demand, state, links)
        self.supply[space.state[0] != 3] = 0.0
        self.demand[space.state[-1] != 3] = 0.0

    def _greedy(self, bound: float) -> float:
        space = self.space
        root, total = int(self.demand.argmax()), 0.0
        residual, vertical = self.middle.work.reshape(-1).data, space.vertical.data
        log = space.touched.data, space.before.data
        for threshold in (self.middle.small_threshold, NOTHING * bound):
            if threshold > 0.0 and bound - total > CLOSED * bound:
                space.restart(self.supply, threshold)
                total = kernels.pull(
                    space.n, space.depth, residual, vertical, self.supply.data, self.demand.data,
                    space.live.reshape(-1).data, space.cursor.data, space.spans[0].data,
                    space.spans[1].data, space.node.data, space.asked.data, space.got.data,
                    *log, threshold, total, bound, root,
                )  # fmt: skip
        return total

    def _finish(self, total: float, bound: float) -> float:
        capacities, residual = self.middle.capacities, self.middle.work
        self.settle()
        missing, cut = bound - total, bound
        for _ in range(MAX_ROUNDS):
            total += self._augment(missing)
            if bound - total <= CLOSED * bound:
                return bound
            reached = residual_reach(capacities, residual, self.supply, NOTHING * cut)
            self.side[:] = reached[0]
            cut = min(bound, cut_capacity(capacities, reached | (self.space.state < 2), *self.whole))
            if cut - total <= 10 * CLOSED * cut:
                break
            # Every edge of a cut lost less than a unit.
            missing = min(cut - total, missing * (capacities.size + 2 * self.space.n) / UNITS)
        return cut

    def _augment(self, missing: float) -> float:
        """Send what SciPy's integer flow can send through the residual graph, and return how much that is."""
        capacities, residual = self.middle.capacities, self.middle.work
        depth, n = capacities.shape[:2]
        unit = missing / UNITS
        tail, head, units, value = _integer_flow(
            _units(residual, unit), _units(capacities - residual, unit), _units(self.supply, unit),
            _units(self.demand, unit),
        )  # fmt: skip
        source = (depth + 1) * n
        sent = units * unit
        from_source, to_output = tail == source, head == source + 1
        self.supply[head[from_source]] -= sent[from_source]
        self.demand[tail[to_output] - depth * n] -= sent[to_output]
        np.maximum(self.supply, 0.0, out=self.supply)
        np.maximum(self.demand, 0.0, out=self.demand)
        # Flow is antisymmetric: read upwards, a negative entry cancels.
        inner = (tail < source) & (head < source) & (head > tail)
        layer, key, query = tail[inner] // n, tail[inner] % n, head[inner] % n
        left = residual[layer, query, key] - sent[inner]
        residual[layer, query, key] = np.clip(left, 0.0, capacities[layer, query, key])
        return value * unit


def _integer_flow(
    forward: NDArray[np.int64], backward: NDArray[np.int64], supply: NDArray[np.int64], demand: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """SciPy's maximum flow through a residual graph: tails, heads, flows and value."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    depth, n = forward.shape[:2]
    source, output = (depth + 1) * n, (depth + 1) * n + 1
    nodes = np.arange(n)
    edges = [
        _edges(forward, n),
        _edges(backward, n)[[1, 0, 2]],
        np.stack([np.full(n, source), nodes, supply]),
        np.stack([depth * n + nodes, np.full(n, output), demand]),
    ]
    # Old SciPy keeps indices of 64 bits, which its maximum flow cannot read.
    tails, heads, amounts = np.concatenate(edges, axis=1).astype(np.int32)
    graph = csr_array((amounts, (tails, heads)), shape=(output + 1, output + 1))
    graph.eliminate_zeros()
    result = maximum_flow(graph, source, output)
    flow = result.flow.tocoo()
    tail, head = flow.coords
    return tail.astype(np.int64), head.astype(np.int64), flow.data.astype(np.int64), int(result.flow_value)


def _units(amounts: NDArray[np.float64], unit: float) -> NDArray[np.int64]:
    return np.minimum(amounts / unit, float(UNITS)).astype(np.int64)


def _edges(amounts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    layer, query, key = np.nonzero(amounts)
    return np.stack([layer * n + key, (layer + 1) * n + query, amounts[layer, query, key]])


def residual_reach(
    capacities: NDArray[np.float64], residual: NDArray[np.float64], supply: NDArray[np.float64], threshold: float
) -> NDArray[np.bool_]:
    """Nodes that supplies reach through residual capacities.

    Args:
        capacities: ``layer query key``.
        residual: What is left of them.
        supply: What is left to send.
        threshold: Residual capacities up to this count as none.

    Returns:
        ``node layer, token``.
    """
    reached = np.zeros((len(capacities) + 1, capacities.shape[1]), bool)
    reached[0] = supply > threshold
    before = -1
    while (count := int(reached.sum())) != before:
        before = count
        for layer, left in enumerate(residual):
            reached[layer + 1] |= (left[:, reached[layer]] > threshold).any(1)
        for layer in range(len(residual) - 1, -1, -1):
            above = reached[layer + 1]
            reached[layer] |= (capacities[layer][above] - residual[layer][above] > threshold).any(0)
    return reached


def cut_capacity(
    capacities: NDArray[np.float64],
    inside: NDArray[np.bool_],
    supply: NDArray[np.float64],
    demand: NDArray[np.float64],
) -> float:
    """Capacity of a cut.

    Args:
        capacities: ``layer query key``.
        inside: Nodes on the source side, ``node layer, token``.
        supply: Capacity from the source to each token.
        demand: Capacity from each token to the output.

    Returns:
        The sum of all capacities that leave the source side.
    """
    crossing = sum(
        float(layer[~inside[number + 1]][:, inside[number]].sum()) for number, layer in enumerate(capacities)
    )
    return float(supply[~inside[0]].sum()) + crossing + float(demand[inside[-1]].sum())
