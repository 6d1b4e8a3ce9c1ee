"""Cells and tables of Markdown out of ``faithfulness.json``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from faithfulness_methods import BASELINES

Summary = dict[str, Any]
CHANCE = {"photo pairs": 0.5, "photo mosaics": 0.25, "multi-digits": 0.25}
"""Share of a mosaic that one of its cells covers."""


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean(row: dict[str, Any] | None, metric: str) -> float | None:
    """Mean over samples, or the one number for all of them; ``None`` where it was not measured."""
    row = row or {}
    found = row.get("scores", {}).get(metric)
    return row.get(metric) if found is None else found[0]


def value(row: dict[str, Any] | None, metric: str, *, interval: bool = True, digits: int = 2) -> str:
    """Mean and interval of a metric, or a dash."""
    found = mean(row, metric)
    if found is None:
        return "-"
    bounds = (row or {}).get("scores", {}).get(metric)
    if bounds is None or not interval:
        return f"{found:.{digits}f}"
    return f"{found:.{digits}f} ({bounds[1]:.{digits}f} to {bounds[2]:.{digits}f})"


def measured(summary: Summary, metric: str) -> dict[str, Any]:
    """The tasks in which a metric was measured."""
    return {
        name: task
        for name, task in summary["tasks"].items()
        if any(mean(row, metric) is not None for row in task["methods"].values())
    }


def methods_of(summary: Summary, metric: str) -> list[str]:
    """Names by the mean of a metric over tasks, best first; baselines are at the end."""
    scores: dict[str, list[float]] = {}
    for task in measured(summary, metric).values():
        own = {name: mean(row, metric) for name, row in task["methods"].items()}
        known = {name: one for name, one in own.items() if one is not None}
        # Tasks have logits of different sizes, so each is counted in units of its largest score.
        largest = max(abs(one) for one in known.values()) or 1.0
        for name, one in known.items():
            scores.setdefault(name, []).append(one / largest)
    ordered = sorted(scores, key=lambda name: -sum(scores[name]) / len(scores[name]))
    return [name for name in ordered if name not in BASELINES] + [name for name in ordered if name in BASELINES]
