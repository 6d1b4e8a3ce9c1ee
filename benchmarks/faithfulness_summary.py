"""Means, intervals and differences out of the rows of ``faithfulness.py``."""

from __future__ import annotations

from datetime import date
from typing import Any

import torch
from torch import Tensor

from attrib_plugin.evaluation import agreement, mean_interval
from attrib_plugin.runner.explain import library_versions

REFERENCES = {
    "SRG": ("random", "RawAttention", "AttentionRollout"),
    "share in cell": ("AttentionRollout", "TokenGradCam"),
}
"""By score, the rows that all others are compared with sample by sample."""


def summarise(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means and intervals, differences to the references, and agreement between methods; rows by task."""
    tasks = {
        name: {
            "about": rows[0]["about"],
            "samples": rows[0]["samples"],
            "pictures": len(set(rows[0]["groups"] or range(rows[0]["samples"]))),
            "methods": {row["method"]: _summarised(row, rows) for row in rows},
            "agreement": _agreement(rows),
        }
        for name, rows in found.items()
        if rows
    }
    return {"date": date.today().isoformat(), "versions": library_versions(), "tasks": tasks}


def _summarised(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    if "single" not in row:
        return {key: row[key] for key in ("error", "absent") if key in row}
    groups = None if row["groups"] is None else torch.tensor(row["groups"])

    def interval(values: Tensor) -> list[float]:
        # Robustness is measured on the first samples only.
        kept = groups[: len(values)] if groups is not None else None
        return [float(f"{one:.4g}") for one in mean_interval(values, groups=kept)]

    own = {name: torch.tensor(values, dtype=torch.float64) for name, values in row["single"].items()}
    others = {one["method"]: one.get("single", {}) for one in rows}
    differences = {
        score: {
            reference: interval(own[score] - torch.tensor(others[reference][score], dtype=torch.float64))
            for reference in references
            if reference != row["method"] and score in others.get(reference, {})
        }
        for score, references in REFERENCES.items()
        if score in own
    }
    scores = {name: interval(values) for name, values in own.items()}
    result = {"seconds": float(f"{row['seconds']:.2g}"), "scores": scores, "differences": differences}
    return result | {key: _rounded_tree(value) for key, value in row["common"].items()}


def _agreement(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    maps = {row["method"]: torch.tensor(row["maps"]) for row in rows if "maps" in row}
    if len(maps) < 3:
        return None
    names, table = agreement(maps)
    return {"methods": list(names), "rank correlation": _rounded_tree(table.tolist())}


def _rounded_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded_tree(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded_tree(one) for one in value]
    return float(f"{value:.4g}")


def print_table(summary: dict[str, Any]) -> None:
    """Means of all scores, a line a row."""
    for name, task in summary["tasks"].items():
        print(f"\n{name}: {task['samples']} samples\n")
        for method, row in task["methods"].items():
            if "scores" not in row:
                print(f"  {method}: {row.get('error') or row.get('absent')}")
                continue
            shown = {key: value[0] for key, value in row["scores"].items()}
            print(f"  {method}: " + ", ".join(f"{key} {value:.3f}" for key, value in shown.items()))
