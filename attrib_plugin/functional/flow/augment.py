"""Dinic's algorithm on what the greedy flow left, the cut that ends it, and the check of the flow; see ``kernels.py``.

Plain Python on flat arrays that numba compiles as it stands. Here the diagonals are edges like others.
Reference: Dinic 1970, blocking flows in graphs of shortest paths.
"""

# ruff: noqa: PLR0917 - compiled functions take flat arrays by position

from __future__ import annotations

from attrib_plugin.functional.flow.kernels import SERVED, Floats, Ints


def label(  # noqa: C901, PLR0912 - one loop that numba compiles
    n: int,
    depth: int,
    middle: Floats,
    residual: Floats,
    state: Ints,
    supply: Floats,
    demand: Floats,
    threshold: float,
    level: Ints,
    queue: Ints,
    waiting: Ints,
    n_waiting: Ints,
) -> int:
    """Label nodes with their distance from the supplies in the residual graph.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        middle: Capacities.
        residual: What is left of them.
        state: 3 for nodes that take part.
        supply: What is left to send.
        demand: What is left to take.
        threshold: Residual capacities up to this count as none.
        level: Filled with distances, -1 where a node was not reached.
        queue: Work space, one entry a node.
        waiting: Work space, one entry a node: the nodes not yet reached, by layer.
        n_waiting: Work space, one entry a node layer.

    Returns:
        Distance of the nearest demand, whose level is complete; -1 if no demand can be reached.
    """
    tail = 0
    for k in range(depth + 1):
        count = 0
        for i in range(n):
            at = k * n + i
            level[at] = -1
            if state[at] == 3:
                if k == 0 and supply[i] > threshold:
                    level[at] = 0
                    queue[tail] = at
                    tail += 1
                else:
                    waiting[k * n + count] = i
                    count += 1
        n_waiting[k] = count
    head = 0
    while head < tail:
        at = queue[head]
        head += 1
        k = at // n
        i = at - k * n
        if k == depth and demand[i] > threshold:
            return int(level[at])
        if k < depth:
            place = 0
            while place < n_waiting[k + 1]:
                other = waiting[(k + 1) * n + place]
                if residual[(k * n + other) * n + i] > threshold:
                    level[(k + 1) * n + other] = level[at] + 1
                    queue[tail] = (k + 1) * n + other
                    tail += 1
                    n_waiting[k + 1] -= 1
                    waiting[(k + 1) * n + place] = waiting[(k + 1) * n + n_waiting[k + 1]]
                else:
                    place += 1
        if k > 0:
            row = (at - n) * n
            place = 0
            while place < n_waiting[k - 1]:
                other = waiting[(k - 1) * n + place]
                if middle[row + other] - residual[row + other] > threshold:
                    level[(k - 1) * n + other] = level[at] + 1
                    queue[tail] = (k - 1) * n + other
                    tail += 1
                    n_waiting[k - 1] -= 1
                    waiting[(k - 1) * n + place] = waiting[(k - 1) * n + n_waiting[k - 1]]
                else:
                    place += 1
    return -1


def cancellable(
    n: int,
    depth: int,
    middle: Floats,
    residual: Floats,
    threshold: float,
    level: Ints,
    touched: Ints,
    start: Ints,
    above: Ints,
) -> None:
    """List, for every node, the nodes above it that would rather have back the flow it sends them.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        middle: Capacities.
        residual: What is left of them.
        threshold: Flows up to this count as none.
        level: Distances from :func:`label`; listed is what lies one step before the node.
        touched: Edges used.
        start: Filled with where each node's list begins, one entry more than nodes.
        above: Filled with the lists; as long as ``touched``, or as there are edges.
    """
    count = touched[len(touched) - 1]
    everything = count < 0
    if everything:
        count = depth * n * n
    for at in range(len(start)):
        start[at] = 0
    for counting in (True, False):
        for place in range(count):
            edge = place if everything else touched[place]
            upper = edge // n + n
            lower = (edge // (n * n)) * n + edge % n
            before = level[upper]
            if before >= 0 and level[lower] == before + 1 and middle[edge] - residual[edge] > threshold:
                if counting:
                    start[lower] += 1
                else:
                    start[lower] -= 1
                    above[start[lower]] = upper
        if counting:
            for at in range(1, len(start)):
                start[at] += start[at - 1]


def block(  # noqa: C901, PLR0912, PLR0915 - one loop that numba compiles
    n: int,
    depth: int,
    middle: Floats,
    residual: Floats,
    supply: Floats,
    demand: Floats,
    nearest: int,
    threshold: float,
    level: Ints,
    start: Ints,
    above: Ints,
    cursor: Ints,
    node: Ints,
    asked: Floats,
    got: Floats,
    touched: Ints,
    before: Floats,
    total: float,
    bound: float,
) -> float:
    """Draw flow along shortest paths of the residual graph until every one is blocked.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        middle: Capacities.
        residual: What is left of them; changed.
        supply: What is left to send; changed.
        demand: What is left to take; changed.
        nearest: Level of the demands that are served.
        threshold: Residual capacities up to this count as none.
        level: Distances; exhausted nodes get -2.
        start: From :func:`cancellable`.
        above: From :func:`cancellable`.
        cursor: Work space, one entry a node.
        node: Work space, one entry a node.
        asked: Work space, one entry a node.
        got: Work space, one entry a node.
        touched: Edges used.
        before: What was left of them.
        total: Flow so far.
        bound: Stop when the flow reaches this.

    Returns:
        The flow, with what was added.
    """
    end = len(touched) - 1
    for at in range((depth + 1) * n):
        cursor[at] = 0
    for root in range(n):
        need = demand[root]
        need = min(need, bound - total)
        if need <= threshold or level[depth * n + root] != nearest:
            continue
        step = nearest
        node[step] = depth * n + root
        asked[step] = need
        got[step] = 0.0
        while True:
            at = node[step]
            k = at // n
            i = at - k * n
            child = -1
            room = 0.0
            if step == 0:
                give = supply[i] if supply[i] < asked[0] else asked[0]
                supply[i] -= give
                got[0] = give
                if supply[i] <= threshold:
                    level[at] = -2
            else:
                need = asked[step] - got[step]
                if need > SERVED * asked[step]:
                    c = cursor[at]
                    if k == 0 and c < n:
                        c = n
                    while c < n:
                        room = residual[(at - n) * n + c]
                        if room > threshold and level[(k - 1) * n + c] == step - 1:
                            child = (k - 1) * n + c
                            break
                        c += 1
                    if child < 0:
                        while start[at] + c - n < start[at + 1]:
                            upper = above[start[at] + c - n]
                            edge = (upper - n) * n + i
                            room = middle[edge] - residual[edge]
                            if room > threshold and level[upper] == step - 1:
                                child = upper
                                break
                            c += 1
                    cursor[at] = c
                    if child < 0:
                        level[at] = -2
                    else:
                        step -= 1
                        node[step] = child
                        asked[step] = room if room < need else need
                        got[step] = 0.0
                        continue
            if step == nearest:
                break
            sent = got[step]
            child = node[step]
            step += 1
            at = node[step]
            if sent > 0.0:
                got[step] += sent
                if child < at - at % n:
                    edge = (at - n) * n + child % n
                    room = residual[edge] - sent
                else:
                    edge = (child - n) * n + at % n
                    room = residual[edge] + sent
                count = touched[end]
                if 0 <= count < end:
                    touched[count] = edge
                    before[count] = residual[edge]
                    touched[end] = count + 1
                else:
                    touched[end] = -1
                residual[edge] = min(max(room, 0.0), middle[edge])
        total += got[nearest]
        demand[root] -= got[nearest]
    return total


def cut_capacity(
    n: int, depth: int, middle: Floats, level: Ints, state: Ints, supply: Floats, demand: Floats, queue: Ints
) -> float:
    """Capacity of the cut around what :func:`label` reached.

    Nodes from which no demand can be reached are taken to the source side too, where they cost nothing.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        middle: Capacities.
        level: Labels after no demand was reached.
        state: What :func:`~attrib_plugin.functional.flow.kernels.reachable` found.
        supply: The problem's supply, whole.
        demand: The problem's demand, whole.
        queue: Work space, ``n``: the source side of a layer.

    Returns:
        An upper bound of every flow.
    """
    capacity = 0.0
    inside = 0
    for i in range(n):
        if level[i] >= 0 or state[i] < 2:
            queue[inside] = i
            inside += 1
        else:
            capacity += supply[i]
    for k in range(depth):
        for i in range(n):
            at = (k + 1) * n + i
            if level[at] < 0 and state[at] >= 2:
                for place in range(inside):
                    capacity += middle[(at - n) * n + queue[place]]
        inside = 0
        for i in range(n):
            if level[(k + 1) * n + i] >= 0 or state[(k + 1) * n + i] < 2:
                queue[inside] = i
                inside += 1
    for place in range(inside):
        capacity += demand[queue[place]]
    return capacity


def certified_flow(  # noqa: C901 - loops that numba compiles
    n: int,
    depth: int,
    middle: Floats,
    residual: Floats,
    diagonal: Floats,
    vertical: Floats,
    sent: Floats,
    taken: Floats,
    touched: Ints,
    before: Floats,
    net: Floats,
) -> float:
    """The value of the flow as it stands, checked edge by edge, and undone.

    Args:
        n: Number of tokens.
        depth: Number of middle layers.
        middle: Capacities.
        residual: What is left of them; put back to the capacities.
        diagonal: Capacities of the diagonals.
        vertical: What is left of the diagonals, where their flow is kept apart.
        sent: What each supply sent.
        taken: What each demand took.
        touched: Edges used; emptied.
        before: What was left of them.
        net: Work space, one entry a node.

    Returns:
        What the demands took, less everything that breaks a capacity or gets lost at a node: a true flow has at
        least this value.
    """
    broken = 0.0
    value = 0.0
    for at in range((depth + 1) * n):
        net[at] = 0.0
    for i in range(n):
        net[i] += sent[i]
        net[depth * n + i] -= taken[i]
        value += taken[i]
        if sent[i] < 0.0 or taken[i] < 0.0:
            broken += abs(sent[i]) + abs(taken[i])
    for at in range(depth * n):
        flow = diagonal[at] - vertical[at]
        net[at + n] += flow
        net[at] -= flow
        if flow < 0.0 or vertical[at] < 0.0:
            broken += abs(flow)
    count = touched[len(touched) - 1]
    everything = count < 0
    if everything:
        count = depth * n * n
    for place in range(count - 1, -1, -1):
        edge = place if everything else touched[place]
        old = middle[edge] if everything else before[place]
        flow = old - residual[edge]
        if flow != 0.0:
            at = edge // n
            net[at + n] += flow
            net[(at // n - at) * n + edge] -= flow
            if residual[edge] < 0.0 or (flow < 0.0 and residual[edge] > middle[edge]):
                broken += abs(flow)
            residual[edge] = old
    touched[len(touched) - 1] = 0
    for at in range((depth + 1) * n):
        broken += abs(net[at])
    return value - broken
