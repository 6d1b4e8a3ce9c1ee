"""The flow engine compiled by numba (extra ``flow``): the same steps, some fifty times faster."""

# ruff: noqa: PLR0917 - compiled functions take flat arrays by position

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar, cast

import numba
import numpy as np

from attrib_plugin.functional.flow import augment, kernels
from attrib_plugin.functional.flow.problems import CLOSED, NOTHING, Answers, Middle, Problems, Tick

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Between two calls of the compiled code the user can interrupt and the progress bar moves.
SECONDS_PER_CALL = 0.1


def _compiled(function: _Function) -> _Function:
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder to cache in
        return cast(_Function, numba.njit(nogil=True)(function))


_reachable = _compiled(kernels.reachable)
_pull = _compiled(kernels.pull)
_settle = _compiled(kernels.settle)
_label = _compiled(augment.label)
_cancellable = _compiled(augment.cancellable)
_block = _compiled(augment.block)
_cut_capacity = _compiled(augment.cut_capacity)
_certified_flow = _compiled(augment.certified_flow)


@_compiled
def _restart(n: int, depth: int, state: Any, supply: Any, threshold: float, live: Any, cursor: Any) -> None:
    """All nodes live that take part; every token asks its own stream first."""
    for k in range(depth + 1):
        for i in range(n):
            out = state[k * n + i] != 3 or (k == 0 and supply[i] <= threshold)
            live[k * (n + 1) + i] = i + 1 if out else i
            cursor[k * n + i] = -1
        live[k * (n + 1) + n] = n


@_compiled
def _everywhere(n: int, depth: int, supply: Any, demand: Any, state: Any) -> None:
    """Mark what supplies and demands reach where every token of a layer reaches every token of the next."""
    state[:] = 3
    for i in range(n):
        if supply[i] <= 0.0:
            state[i] = 2
        if demand[i] <= 0.0:
            state[depth * n + i] = 1


@_compiled
def _greedy(
    n: int, depth: int, graph: Any, problem: Any, live: Any, cursor: Any, log: Any, small: float, bound: float
) -> float:
    """The greedy blocking flow; large capacities first where attention is peaky."""
    _, residual, diagonal, first, last = graph
    supply, demand, state, vertical = problem
    touched, before = log
    node, asked, got = np.empty(depth + 1, np.int64), np.empty(depth + 1), np.empty(depth + 1)
    vertical[:] = diagonal
    root = int(np.argmax(demand))
    total = 0.0
    for threshold in (small, NOTHING * bound):
        if threshold > 0.0 and bound - total > CLOSED * bound:
            _restart(n, depth, state, supply, threshold, live, cursor)
            total = _pull(
                n, depth, residual, vertical, supply, demand, live, cursor, first, last, node, asked, got,
                touched, before, threshold, total, bound, root,
            )  # fmt: skip
    return total


@_compiled
def _finish(
    n: int,
    depth: int,
    graph: Any,
    problem: Any,
    whole: Any,
    log: Any,
    side: Any,
    total: float,
    bound: float,
    share: float,
) -> tuple[float, float]:
    """Dinic's algorithm from a flow on: the flow, and a cut that it meets up to residual capacities below a share."""
    middle, residual = graph[0], graph[1]
    supply, demand, state, vertical = problem
    touched, before = log
    nodes = (depth + 1) * n
    level, queue, waiting = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    cursor, node, n_waiting = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(depth + 1, np.int64)
    asked, got = np.empty(nodes), np.empty(nodes)
    start, above = np.empty(nodes + 1, np.int64), np.empty(len(touched), np.int32)
    threshold = share * bound
    _settle(n, depth, residual, graph[2], vertical, touched, before)
    while bound - total > CLOSED * bound:
        nearest = _label(
            n, depth, middle, residual, state, supply, demand, threshold, level, queue, waiting, n_waiting
        )  # fmt: skip
        if nearest < 0:
            for i in range(n):
                side[i] = level[i] >= 0
            return total, min(bound, _cut_capacity(n, depth, middle, level, state, whole[0], whole[1], queue))
        if touched[len(touched) - 1] < 0 and len(above) < len(middle):
            above = np.empty(len(middle), np.int32)
        _cancellable(n, depth, middle, residual, threshold, level, touched, start, above)
        total = _block(
            n, depth, middle, residual, supply, demand, nearest, threshold, level, start, above, cursor, node, asked,
            got, touched, before, total, bound,
        )  # fmt: skip
    return total, bound


@_compiled
def _solve(shape: tuple[int, int], graph: Any, spans: Any, rows: Any, chosen: Any, small: float, answers: Any) -> None:
    """Solve some problems; see :func:`solve`."""
    depth, n = shape
    middle, residual = graph[0], graph[1]
    supplies, demands = rows
    which_supply, which_demand, bounds = chosen
    everywhere = spans[0].max() == 0 and spans[1].min() == n - 1
    flows, cuts, sides = answers
    state, links = np.empty((depth + 1) * n, np.int32), np.empty(n + 1, np.int32)
    live, cursor = np.empty((depth + 1) * (n + 1), np.int32), np.empty((depth + 1) * n, np.int32)
    net, vertical = np.empty((depth + 1) * n), np.empty(depth * n)
    touched = np.zeros(len(middle) // 4 + 4 * depth * n + 1, np.int32)
    before = np.empty(len(touched))
    log = touched, before
    for number in range(len(bounds)):
        supply, demand = supplies[which_supply[number]].copy(), demands[which_demand[number]].copy()
        if everywhere:
            _everywhere(n, depth, supply, demand, state)
        else:
            _reachable(n, depth, spans, supply, demand, state, links)
            supply[state[:n] != 3] = 0.0
            demand[state[depth * n :] != 3] = 0.0
        bound = min(bounds[number], supply.sum(), demand.sum())
        flows[number] = cuts[number] = 0.0
        if bound <= 0.0:
            continue
        whole, problem = (supply.copy(), demand.copy()), (supply, demand, state, vertical)
        total = _greedy(n, depth, graph, problem, live, cursor, log, small, bound)
        cut = bound
        for share in (NOTHING, 0.0):
            if cut - total > 10 * CLOSED * cut:
                side = sides[number % len(sides)]
                total, cut = _finish(n, depth, graph, problem, whole, log, side, total, bound, share)
        cuts[number] = cut
        flows[number] = _certified_flow(
            n, depth, middle, residual, graph[2], vertical, whole[0] - supply, whole[1] - demand, touched, before, net
        )


def solve(middle: Middle, problems: Problems, tick: Tick, *, with_sides: bool = False) -> Answers:
    """Solve problems in compiled code, some at a time; see :class:`~problems.Engine`.

    Args:
        middle: The layers between supplies and demands.
        problems: Supplies, demands and bounds.
        tick: Told of progress.
        with_sides: Whether the sides of the cuts are asked for.

    Returns:
        Flows and cuts.
    """
    depth, n = middle.capacities.shape[:2]
    diagonal = np.diagonal(middle.capacities, axis1=1, axis2=2).flatten()
    spans = tuple(part.reshape(-1) for part in middle.spans.parts)
    graph = middle.capacities.reshape(-1), middle.work.reshape(-1), diagonal, spans[0], spans[1]
    # Arrays of another layout would be compiled for anew.
    rows = np.ascontiguousarray(problems.supplies), np.ascontiguousarray(problems.demands)
    asked = tuple(map(np.ascontiguousarray, (problems.supply, problems.demand, problems.bounds)))
    answers = Answers.blank(problems, with_sides)
    start, size = 0, 4
    while start < len(problems):
        part = slice(start, start + size)
        began = perf_counter()
        chosen = tuple(values[part] for values in asked)
        room = answers.flows[part], answers.cuts[part], answers.sides[part] if with_sides else answers.sides
        _solve((depth, n), graph, spans, rows, chosen, middle.small_threshold, room)
        tick(len(chosen[2]))
        start += size
        size = max(1, min(8 * size, int(size * SECONDS_PER_CALL / max(perf_counter() - began, 1e-9))))
    return answers
