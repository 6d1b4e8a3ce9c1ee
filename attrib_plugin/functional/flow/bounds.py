"""Upper bounds of the flow from capacities alone: the best of the cuts that follow one token's stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrib_plugin.functional.flow.network import Network


def stream_bounds(network: Network, outputs: list[int]) -> NDArray[np.float64]:
    """The capacity of the cheapest cut of a family, from every input token to output tokens.

    In every layer the source side of the cut is nothing (``none``), the input token (``own``), every token but the
    output token (``others``) or every token (``every``). Steps from a large set to a small one are left out: they cost
    a large part of a layer. All terms are sums of capacities, without differences, so the bound is exact to rounding.

    Args:
        network: The graph.
        outputs: The output tokens.

    Returns:
        An upper bound of the flow from every input token, ``output token``.
    """
    columns = network.off_columns + network.diagonal
    off_row = network.off_rows[:, outputs, None]
    row = off_row + network.diagonal[:, outputs, None]
    none, own = columns[0], network.off_columns[0]
    others, every = network.layers[0][outputs], np.zeros((len(outputs), network.n_tokens))
    for layer in range(1, network.depth):
        reached = own + network.layers[layer][outputs]
        for other in (none, others + off_row[layer], every + row[layer]):
            np.minimum(reached, other, out=reached)
        every = np.minimum(np.minimum(none, own), np.minimum(others, every))
        none, own = np.minimum(none, own + columns[layer]), np.minimum(none, own + network.off_columns[layer])
        others = reached
    bounds: NDArray[np.float64] = others
    return bounds


def trivial_bounds(network: Network, outputs: list[int]) -> NDArray[np.float64]:
    """What every input token can send at most, or the output token can take.

    Args:
        network: The graph.
        outputs: The output tokens.

    Returns:
        An upper bound of the flow from every input token, ``output token``.
    """
    bounds: NDArray[np.float64] = np.minimum(network.source_bounds, network.output_bounds[outputs, None])
    return bounds
