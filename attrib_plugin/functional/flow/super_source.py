"""Generalized attention flow: one flow from all input tokens at once, shared among them in the one fair way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from attrib_plugin.functional.flow.engines import EngineName
from attrib_plugin.functional.flow.network import Network
from attrib_plugin.functional.flow.problems import CERTIFIED, Answers, Engine, Middle, Problems, Tick, solve_certified
from attrib_plugin.functional.flow.tokens import Outputs, flows_of_samples

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray

# A set of tokens is not split further when its flow is this close to being shared evenly.
EVEN = 1e-12


def generalized_attention_flow(
    capacities: Float[Tensor, "layer batch token token"],
    *,
    outputs: Outputs = None,
    engine: EngineName = "auto",
    progress: bool | None = None,
) -> Float[Tensor, "batch output token"]:
    """What each input token sends in a maximum flow from all input tokens together to an output token.

    A super-source feeds every input token; the flow is that of one network, so tokens compete for capacity, unlike in
    :func:`attention_flow`. A maximum flow is not unique. Taken is the one in which all tokens use the same share of
    what their own edges could carry, as far as the capacities allow: the shares, sorted upwards, are the largest in
    lexicographic order. It is unique, does not depend on the order of tokens or on a parameter, and splitting a token
    in two splits its value.

    Cost: one flow, and two more for each group of tokens that a bottleneck holds at a share of its own; in float64.

    Args:
        capacities: Non-negative, for instance gradient-weighted attention; rows are queries. Taken as they are.
        outputs: Output tokens, counted from 0 or from -1 backwards; ``None`` is all. Each is a problem of its own.
        engine: As in :func:`attention_flow`.
        progress: As in :func:`attention_flow`.

    Returns:
        Flow that leaves each input token (last axis), in units of capacity; a row sums to the maximum flow from all
        tokens to the output token.

    Raises:
        ValueError: If ``capacities`` or an option is impossible.
        ImportError: If numba was asked for by name and is not installed.
        ArithmeticError: If a flow could not be certified.

    Reference:
        Azarkhalili and Libbrecht 2025, arXiv:2502.15765 (the network; they choose among maximum flows by a log
        barrier). The fair choice: Megiddo 1974, Optimal flows in networks with multiple sources and sinks; Fujishige
        1980, Lexicographically optimal base of a polymatroid.
    """

    def rows(network: Network, chosen: list[int], solve: Engine, tick: Tick) -> NDArray[np.float64]:
        middle = _all_but_last(network) if network.depth > 1 else None
        shares = [_fair_shares(network, middle, token, solve, tick) for token in chosen]
        return np.stack(shares) if shares else np.zeros((0, network.n_tokens))

    return flows_of_samples(capacities, rows, residual=None, outputs=outputs, engine=engine, progress=progress)


def _all_but_last(network: Network) -> Middle:
    inner = slice(0, network.depth - 1)
    capacities = network.layers[inner]
    return Middle(capacities, capacities.copy(), network.spans.part(inner), network.small_threshold)


def _fair_shares(
    network: Network, middle: Middle | None, output: int, solve: Engine, tick: Tick
) -> NDArray[np.float64]:
    tick(network.n_tokens)
    weights = _useful_columns(network, output)
    if middle is None:
        return weights
    flow = _FairFlow(middle, network.layers[-1, output], solve)
    sent = np.zeros_like(weights)
    if (most := flow.maximum(weights)) <= 0.0:
        return sent
    # Sets of tokens with what they send together. Tokens of lower shares come first; a set knows those before it.
    waiting = [(weights > 0.0, most)]
    while waiting:
        members, amount = waiting.pop()
        share = amount / float(weights[members].sum())
        lower = flow.held_back(np.where(members, np.minimum(share * weights, weights), sent)) & members
        if not lower.any() or not (members & ~lower).any():
            sent[members] = share * weights[members]
            continue
        held = flow.maximum(np.where(lower, weights, sent)) - float(sent.sum())
        waiting += [(members & ~lower, amount - held), (lower, held)]
    if abs(flow.maximum(sent) - most) > CERTIFIED * most:
        raise ArithmeticError(f"The shares found send {flow.maximum(sent)!r} of a maximum flow of {most!r}.")
    return sent


def _useful_columns(network: Network, output: int) -> NDArray[np.float64]:
    """What each input token could send by itself, over edges that lead to the output token."""
    leads = np.zeros(network.n_tokens, bool)
    leads[output] = True
    for layer in network.layers[:0:-1]:
        leads = (layer[leads] > 0.0).any(0)
    columns: NDArray[np.float64] = network.layers[0][leads].sum(0)
    return columns


class _FairFlow:
    """Flows with given supplies to one output token.

    Args:
        middle: All layers but the last.
        demand: The output token's row of the last layer.
        solve: The engine.
    """

    def __init__(self, middle: Middle, demand: NDArray[np.float64], solve: Engine) -> None:
        self._middle, self._demand, self._solve = middle, demand[None], solve

    def maximum(self, supply: NDArray[np.float64]) -> float:
        """Value of a maximum flow with these supplies."""
        return float(self._answer(supply).cuts[0])

    def held_back(self, supply: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tokens on the source side of the smallest cut, where not all of the supply gets through."""
        answers = self._answer(supply)
        if answers.cuts[0] >= (1.0 - EVEN) * supply.sum():
            return np.zeros(len(supply), bool)
        side: NDArray[np.bool_] = answers.sides[0]
        return side

    def _answer(self, supply: NDArray[np.float64]) -> Answers:
        first = np.zeros(1, np.int64)
        bound = np.array([min(supply.sum(), self._demand.sum())])
        problem = Problems(supply[None], self._demand, first, first, bound)
        return solve_certified(self._solve, self._middle, problem, lambda solved: None, with_sides=True)
