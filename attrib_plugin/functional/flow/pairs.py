"""Maximum flows between input and output tokens of one network: which problems to solve, and which need none.

Between input token s and output token t the first and the last layer are vectors: what s can send to each token, and
what t can take from each. What is solved lies between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attrib_plugin.functional.flow.bounds import stream_bounds, trivial_bounds
from attrib_plugin.functional.flow.problems import CLOSED, Engine, Middle, Problems, Tick, solve_certified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from attrib_plugin.functional.flow.network import Network

# With fewer layers a half has no middle, or settles next to nothing.
MIN_DEPTH_FOR_HALVES = 5


def flow_rows(network: Network, outputs: Sequence[int], engine: Engine, tick: Tick) -> NDArray[np.float64]:
    """Maximum flow from every input token to some output tokens.

    Args:
        network: The graph.
        outputs: Output tokens, each once.
        engine: What solves.
        tick: Told of every flow found.

    Returns:
        ``output token``.

    Raises:
        ArithmeticError: If a value could not be certified.
    """
    rows = list(outputs)
    if not rows:
        return np.zeros((0, network.n_tokens))
    if network.depth <= 2:
        tick(len(rows) * network.n_tokens)
        return _shallow(network, rows)
    middle = middle_of(network)
    flows = np.minimum(stream_bounds(network, rows), trivial_bounds(network, rows))
    open_pairs = flows > 0.0
    tick(int((~open_pairs).sum()))
    if network.depth >= MIN_DEPTH_FOR_HALVES:
        settled = _halves(network, rows, flows, middle, engine) & open_pairs
        tick(int(settled.sum()))
        open_pairs &= ~settled
    which, sources = np.nonzero(open_pairs)
    if len(which):
        problems = Problems(
            supplies=np.ascontiguousarray(network.layers[0].T),
            demands=network.layers[-1],
            supply=sources,
            demand=np.asarray(rows)[which],
            bounds=flows[which, sources],
        )
        flows[which, sources] = solve_certified(engine, middle, problems, tick).cuts
    return flows


def middle_of(network: Network) -> Middle:
    """The layers between the first and the last, with a copy to work in.

    Args:
        network: The graph, of three layers or more.

    Returns:
        The middle layers.
    """
    inner = slice(1, network.depth - 1)
    capacities = network.layers[inner]
    return Middle(capacities, capacities.copy(), network.spans.part(inner), network.small_threshold)


def _shallow(network: Network, rows: list[int]) -> NDArray[np.float64]:
    if network.depth == 1:
        return network.layers[0, rows]
    lower, upper = network.layers
    # Every middle token is a path of its own.
    return np.stack([np.minimum(lower, upper[t][:, None]).sum(0) for t in rows])


def _halves(
    network: Network, rows: list[int], bounds: NDArray[np.float64], middle: Middle, engine: Engine
) -> NDArray[np.bool_]:
    """Pairs whose flow is what the input token can send or the output token can take, whichever is less.

    If an input token can spread all it can send evenly over the tokens half-way up, and an output token can gather all
    it can take evenly from there, the two flows join, scaled to the smaller. So all pairs need two sets of problems of
    half the depth. A pair is settled only if both flows were found, checked edge by edge. Outputs come first: where
    none gathers, nothing is spread.
    """
    n, half = network.n_tokens, network.depth // 2
    takeable = network.output_bounds[rows]
    sendable = np.minimum(network.source_bounds, takeable.max())
    even = np.full((1, n), 1.0 / n)
    gathering = Problems(
        takeable[:, None] * even, network.layers[-1], np.arange(len(rows)), np.asarray(rows), takeable.copy()
    )
    gathered = _meets_bounds(engine, middle.part(slice(half - 1, None)), gathering)
    if not gathered.any():
        return np.zeros(bounds.shape, bool)
    spreading = Problems(
        np.ascontiguousarray(network.layers[0].T), sendable[:, None] * even, np.arange(n), np.arange(n), sendable
    )
    spread = _meets_bounds(engine, middle.part(slice(0, half - 1)), spreading)
    least = np.minimum(network.source_bounds[None], takeable[:, None])
    settled: NDArray[np.bool_] = gathered[:, None] & spread[None] & (bounds >= (1 - 10 * CLOSED) * least)
    return settled


def _meets_bounds(engine: Engine, middle: Middle, problems: Problems) -> NDArray[np.bool_]:
    met: NDArray[np.bool_] = engine(middle, problems, _silent).flows >= (1 - 10 * CLOSED) * problems.bounds
    return met


def _silent(solved: int) -> None:
    """Problems of the halves are few beside the pairs; they are not counted."""
