"""What engines solve: many flow problems over one stack of middle layers, each answer with its certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrib_plugin.functional.flow.network import Spans

CERTIFIED = 1e-9
"""Largest difference between a flow and a cut, as a share of the cut, at which a value is returned."""

CLOSED = 1e-13
"""Difference between flow and cut, as a share of the cut, at which an engine stops looking for more."""

NOTHING = 1e-15
"""Residual capacities up to this share of a problem's bound count as none, until the certificate asks for more."""

MAX_RESCUES = 3
"""How often an answer that is not certified is solved once more, in smaller capacities."""

Tick = Callable[[int], None]
"""Called with the number of problems solved since the last call."""


@dataclass(frozen=True, eq=False)
class Problems:
    """Flow problems over the same middle layers.

    Attributes:
        supplies: Capacities from the source to each token of the lowest node layer, one set a row.
        demands: Capacities from each token of the highest node layer to the output, one set a row.
        supply: Which row of ``supplies`` each problem has.
        demand: Which row of ``demands`` each problem has.
        bounds: An upper bound of each problem's flow; a cut of that capacity is known.
    """

    supplies: NDArray[np.float64]
    demands: NDArray[np.float64]
    supply: NDArray[np.int64]
    demand: NDArray[np.int64]
    bounds: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of problems."""
        return len(self.bounds)


@dataclass(frozen=True, eq=False)
class Middle:
    """The layers between supplies and demands.

    Attributes:
        capacities: ``layer query key``, at least one layer, contiguous.
        work: A copy of it that engines change and put back.
        spans: Where its positive entries lie.
        small_threshold: Capacities up to this are left for a second pass; 0 for one pass.
    """

    capacities: NDArray[np.float64]
    work: NDArray[np.float64]
    spans: Spans
    small_threshold: float

    def part(self, layers: slice) -> Middle:
        """Some of the layers, in the same memory.

        Args:
            layers: Which.

        Returns:
            Views.
        """
        return Middle(self.capacities[layers], self.work[layers], self.spans.part(layers), self.small_threshold)


@dataclass(frozen=True, eq=False)
class Answers:
    """What an engine found for each problem.

    Attributes:
        flows: Value of a flow that was checked edge by edge.
        cuts: Capacity of a cut.
        sides: Lowest tokens on the source side of that cut, ``problem token``, where it is not the problem's bound;
            one row in all if they were not asked for.
    """

    flows: NDArray[np.float64]
    cuts: NDArray[np.float64]
    sides: NDArray[np.bool_]

    @classmethod
    def blank(cls, problems: Problems, with_sides: bool) -> Answers:
        """Room for answers.

        Args:
            problems: The problems.
            with_sides: Whether sides are asked for.

        Returns:
            Zeros.
        """
        rows = len(problems) if with_sides else 1
        flows, cuts = np.zeros((2, len(problems)))
        return cls(flows, cuts, np.zeros((rows, problems.supplies.shape[1]), bool))


class Engine(Protocol):
    """Solves problems: the largest flow, and a cut of the same capacity."""

    def __call__(self, middle: Middle, problems: Problems, tick: Tick, *, with_sides: bool = False) -> Answers:
        """Solve.

        Args:
            middle: The layers between supplies and demands; its ``work`` is changed and put back.
            problems: Supplies, demands and bounds.
            tick: Told of progress.
            with_sides: Whether the sides of the cuts are asked for.

        Returns:
            Flows and cuts, not yet compared.
        """
        ...


def solve_certified(
    engine: Engine, middle: Middle, problems: Problems, tick: Tick, *, with_sides: bool = False
) -> Answers:
    """Solve, and prove every answer by a flow and a cut that agree.

    Where a flow is so much smaller than its edges' capacities that rounding hides it, it is solved once more with all
    capacities cut down to the smallest cut known: no edge can carry more.

    Args:
        engine: What solves.
        middle: The layers between supplies and demands.
        problems: Supplies, demands and bounds.
        tick: Told of progress.
        with_sides: Whether the sides of the cuts are asked for.

    Returns:
        Flows, and cuts that agree with them; the cuts, sums of few terms, are the more exact.

    Raises:
        ArithmeticError: If a flow falls short of its cut by more than rounding explains.
    """
    answers = engine(middle, problems, tick, with_sides=with_sides)
    for _ in range(MAX_RESCUES):
        for number in np.flatnonzero(_uncertified(answers)):
            _solve_smaller(engine, middle, problems, answers, int(number))
    if (wrong := _uncertified(answers)).any():
        first = int(wrong.argmax())
        raise ArithmeticError(
            f"{int(wrong.sum())} of {len(wrong)} flows could not be certified; the first: flow "
            f"{float(answers.flows[first])!r}, cut {float(answers.cuts[first])!r}. Expected them to agree within "
            f"{CERTIFIED:g} of the cut. Capacities of very different size in one graph can do this: zero the smallest."
        )
    return answers


def _uncertified(answers: Answers) -> NDArray[np.bool_]:
    # Written so that NaN is uncertified too.
    return ~(np.abs(answers.cuts - answers.flows) <= CERTIFIED * answers.cuts)


def _solve_smaller(engine: Engine, middle: Middle, problems: Problems, answers: Answers, number: int) -> None:
    most = answers.cuts[number]
    capacities = np.minimum(middle.capacities, most)
    supply, demand = problems.supplies[problems.supply[number]], problems.demands[problems.demand[number]]
    first = np.zeros(1, np.int64)
    one = Problems(np.minimum(supply, most)[None], np.minimum(demand, most)[None], first, first, np.full(1, most))
    answer = engine(Middle(capacities, capacities.copy(), middle.spans, 0.0), one, _silent, with_sides=True)
    answers.flows[number], answers.cuts[number] = answer.flows[0], answer.cuts[0]
    if answer.cuts[0] < most:  # else the cut is the one that was known
        answers.sides[number % len(answers.sides)] = answer.sides[0]


def _silent(solved: int) -> None:
    """A problem that is solved once more is not counted again."""
