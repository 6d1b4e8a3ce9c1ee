"""The flow algorithm on flat arrays: plain Python that numba compiles as it stands.

A problem is a stack of middle layers between a supply (what enters each token of the lowest node layer) and a demand
(what each token of the highest can take). ``depth`` middle layers of ``n`` tokens have nodes ``layer * n + token`` for
layers 0 to ``depth`` and edges ``(layer * n + query) * n + key`` from ``(layer, key)`` to ``(layer + 1, query)``.

``residual`` is what is left of ``middle``: the flow on an edge is ``middle - residual``. Every edge that is used is
noted in ``touched`` (its last entry counts them) with what was left of it ``before``, so that undoing a flow costs what
it touched, not the whole stack; once there are more than fit, the count is -1 and everything is scanned.

The steps are a greedy blocking flow from the demands downwards (:func:`pull`, with forward edges only) and, on
what is left, Dinic's algorithm (``augment.py``). The order of the steps was chosen by measurement on attention.
"""

# ruff: noqa: PLR0917 - compiled functions take flat arrays by position

from __future__ import annotations

from typing import Any

# Flat float64 and int64 buffers: NumPy arrays, memoryviews in plain Python, or what numba makes of them.
Floats = Any
Ints = Any

# Asked and given amounts agree to this share; without it, rounding would be chased through the graph.
SERVED = 1e-15


def reachable(  # noqa: C901 - loops that numba compiles
    n: int, depth: int, spans: tuple[Ints, Ints, Ints, Ints], supply: Floats, demand: Floats, state: Ints, links: Ints
) -> None:
    """Mark nodes that supplies can reach (1) and that can reach demands (2), by spans: a superset.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        spans: First and last positive key of each row, then first and last positive query of each column.
        supply: Capacity from the source, ``token``.
        demand: Capacity to the output, ``token``.
        state: Filled for every node: 3 where both hold.
        links: Work space, ``n + 1``: the next marked token at or after each position.
    """
    first, last, column_first, column_last = spans
    links[n] = n
    for i in range(n):
        state[i] = 1 if supply[i] > 0.0 else 0
        state[depth * n + i] = 0
    for k in range(depth):
        for j in range(n - 1, -1, -1):
            links[j] = j if state[k * n + j] == 1 else links[j + 1]
        for i in range(n):
            edge = k * n + i
            state[edge + n] = 1 if first[edge] < n and links[first[edge]] <= last[edge] else 0
    for i in range(n):
        if demand[i] > 0.0:
            state[depth * n + i] += 2
    for k in range(depth - 1, -1, -1):
        for i in range(n - 1, -1, -1):
            links[i] = i if state[(k + 1) * n + i] >= 2 else links[i + 1]
        for j in range(n):
            edge = k * n + j
            if column_first[edge] < n and links[column_first[edge]] <= column_last[edge]:
                state[edge] += 2


def pull(  # noqa: C901, PLR0912, PLR0915 - one loop; calls would cost more than the steps, in Python as in numba
    n: int,
    depth: int,
    residual: Floats,
    vertical: Floats,
    supply: Floats,
    demand: Floats,
    live: Ints,
    cursor: Ints,
    first: Ints,
    last: Ints,
    node: Ints,
    asked: Floats,
    got: Floats,
    touched: Ints,
    before: Floats,
    threshold: float,
    total: float,
    bound: float,
    first_root: int,
) -> float:
    """Draw flow from the supplies to the demands along forward edges until every path is blocked.

    Depth first from each demand, a bundle at a time: a token asks the tokens below it, its own stream first, for what
    it was asked; a token that gives less than asked is exhausted and never asked again.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        residual: What is left of the capacities; changed, but for the diagonals.
        vertical: What is left of the diagonals, ``layer token``; changed.
        supply: What is left to send; changed.
        demand: What is left to take; changed.
        live: For each node layer ``n + 1`` links to the next live token; a token is live if it links to itself.
        cursor: For each node the next key to ask; -1 is its own stream.
        first: First positive key of each row.
        last: Last positive key of each row.
        node: Work space, ``depth + 1``.
        asked: Work space, ``depth + 1``.
        got: Work space, ``depth + 1``.
        touched: Edges used; see the module.
        before: What was left of them.
        threshold: Residual capacities up to this count as none.
        total: Flow so far.
        bound: Stop when the flow reaches this.
        first_root: The demand that is served first.

    Returns:
        The flow, with what was added.
    """
    end = len(touched) - 1
    for turn in range(n + 1):
        root = first_root if turn == 0 else turn - 1
        need = demand[root]
        need = min(need, bound - total)
        if need <= threshold or live[depth * (n + 1) + root] != root:
            continue
        layer = depth
        node[layer] = root
        asked[layer] = need
        got[layer] = 0.0
        while True:
            i = node[layer]
            child = -1
            room = 0.0
            sent = 0.0
            need = asked[layer] - got[layer]
            if need > SERVED * asked[layer]:
                below = (layer - 1) * (n + 1)
                at = (layer - 1) * n + i
                j = cursor[at + n]
                if j < 0:
                    room = vertical[at]
                    if live[below + i] == i and room > threshold:
                        child = i
                    else:
                        j = first[at]
                if child < 0:
                    row = at * n
                    stop = last[at]
                    while j <= stop:
                        while live[below + j] != j:
                            live[below + j] = live[below + live[below + j]]
                            j = live[below + j]
                        if j > stop:
                            break
                        if j != i:
                            room = residual[row + j]
                            if room > threshold:
                                child = j
                                break
                        j += 1
                    cursor[at + n] = j
                    if child < 0:
                        live[below + n + 1 + i] = i + 1
                if child >= 0:
                    need = min(need, room)
                    if layer > 1:
                        layer -= 1
                        node[layer] = child
                        asked[layer] = need
                        got[layer] = 0.0
                        continue
                    sent = supply[child]
                    if sent - threshold <= need:
                        live[child] = child + 1
                    sent = min(sent, need)
                    supply[child] -= sent
            if child < 0:
                if layer == depth:
                    break
                sent = got[layer]
                child = node[layer]
                layer += 1
                i = node[layer]
            if sent > 0.0:
                got[layer] += sent
                at = (layer - 1) * n + i
                if child == i:
                    room = vertical[at] - sent
                    vertical[at] = room if room > 0.0 else 0.0
                else:
                    edge = at * n + child
                    room = residual[edge]
                    count = touched[end]
                    if 0 <= count < end:
                        touched[count] = edge
                        before[count] = room
                        touched[end] = count + 1
                    else:
                        touched[end] = -1
                    room -= sent
                    residual[edge] = room if room > 0.0 else 0.0
        total += got[depth]
        demand[root] -= got[depth]
    return total


def settle(
    n: int, depth: int, residual: Floats, diagonal: Floats, vertical: Floats, touched: Ints, before: Floats
) -> None:
    """Write the diagonals that :func:`pull` kept apart into the residual capacities, for what follows.

    Only where something follows: reading a diagonal of the stack costs more than pulling through it.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        residual: What is left of the capacities; its diagonals are filled.
        diagonal: Capacities of the diagonals, ``layer token``.
        vertical: What is left of them; made whole again, since the flow is now in ``residual``.
        touched: Edges used; see the module.
        before: What was left of them.
    """
    end = len(touched) - 1
    for at in range(depth * n):
        if vertical[at] != diagonal[at]:
            residual[at * n + at % n] = vertical[at]
            vertical[at] = diagonal[at]
            count = touched[end]
            if 0 <= count < end:
                touched[count] = at * n + at % n
                before[count] = diagonal[at]
                touched[end] = count + 1
            else:
                touched[end] = -1
