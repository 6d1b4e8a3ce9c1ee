"""Plots of ``docs/explanation/which-map-can-be-trusted.md`` out of ``faithfulness.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from faithfulness_methods import BASELINES
from faithfulness_table import CHANCE, Summary, measured, methods_of
from matplotlib import pyplot as plt

COMPARED = (
    "AttentionAwareRelevance",
    "AttentionAwareRelevance, gamma",
    "TransformerAttribution",
    "GradientRollout",
    "GradientRollout, signed",
    "AttentionRollout",
    "RawAttention",
    "TokenGradCam",
    "AttentionGradCam",
    "Captum IntegratedGradients",
    "input alone",
    "truth",
    "random",
)
"""The rows whose agreement is drawn."""


def draw(summary: Summary, folder: Path) -> None:
    """All plots; the same figures give the same files."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "faithfulness"
    plot_srg(summary, folder / "faithfulness-srg.svg")
    plot_places(summary, folder / "faithfulness-places.svg")
    plot_curves(summary, folder / "faithfulness-curves.svg")
    plot_agreement(summary, folder / "faithfulness-agreement.svg")


def plot_srg(summary: Summary, path: Path) -> None:
    _dots(summary, "SRG", "SRG, in logits", path)


def plot_places(summary: Summary, path: Path) -> None:
    """Share of the relevance in the right cell, a panel a task; the line is chance."""
    _dots(summary, "share in cell", "share in the right cell", path)


def _dots(summary: Summary, metric: str, label: str, path: Path) -> None:
    tasks = measured(summary, metric)
    names = methods_of(summary, metric)[::-1]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(3 * len(tasks) + 1.5, 0.27 * len(names) + 1), sharey=True, squeeze=False
    )
    for axis, (task_name, task) in zip(axes[0], tasks.items(), strict=True):
        for place, name in enumerate(names):
            score = task["methods"].get(name, {}).get("scores", {}).get(metric)
            if score is None:
                continue
            mean, low, high = score
            color = "#777777" if name in BASELINES else "#1b6ca8"
            axis.plot([low, high], [place, place], color=color, linewidth=2)
            axis.plot(mean, place, "o", color=color, markersize=4)
        axis.axvline(CHANCE[task_name] if metric == "share in cell" else 0, color="black", linewidth=0.6)
        axis.set_title(task_name, fontsize=10)
        axis.set_xlabel(label, fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_yticks(range(len(names)), names)
    _save(figure, path)


def plot_curves(summary: Summary, path: Path) -> None:
    wanted = (
        "random",
        "RawAttention",
        "AttentionRollout",
        "TokenGradCam",
        "GradientRollout",
        "TransformerAttribution",
        "AttentionAwareRelevance",
        "occlusion",
    )
    tasks = {
        name: task
        for name, task in summary["tasks"].items()
        if any("curves" in row for row in task["methods"].values())
    }
    figure, axes = plt.subplots(1, len(tasks), figsize=(3 * len(tasks) + 1, 3.2), squeeze=False)
    for axis, (task_name, task) in zip(axes[0], tasks.items(), strict=True):
        for number, name in enumerate(wanted):
            curves = task["methods"].get(name, {}).get("curves")
            if curves is None:
                continue
            at = [step / (len(curves["most"]) - 1) for step in range(len(curves["most"]))]
            axis.plot(at, curves["most"], color=f"C{number}", linewidth=1.2, label=name)
            axis.plot(at, curves["least"], color=f"C{number}", linewidth=1.2, linestyle="--")
        axis.set_title(task_name, fontsize=10)
        axis.set_xlabel("share removed", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_ylabel("logit of the class", fontsize=8)
    # Not every task has every method, so names are gathered from all of them.
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_legend_handles_labels()[0]}
    figure.legend(lines.values(), lines.keys(), loc="lower center", ncol=len(wanted) // 2, fontsize=8, frameon=False)
    figure.subplots_adjust(bottom=0.29)
    _save(figure, path, tight=False)


def plot_agreement(summary: Summary, path: Path) -> None:
    """Rank correlation between the maps of the main methods, a panel a task; white also where one was not measured."""
    tasks = {name: task["agreement"] for name, task in summary["tasks"].items() if task.get("agreement")}
    figure, axes = plt.subplots(2, 3, figsize=(11, 8.6), sharex=True, sharey=True)
    for axis, (task_name, found) in zip(axes.flat, tasks.items(), strict=False):
        places = {name: number for number, name in enumerate(found["methods"])}
        table = found["rank correlation"]
        values = [
            [table[places[row]][places[column]] if {row, column} <= places.keys() else 0.0 for column in COMPARED]
            for row in COMPARED
        ]
        axis.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
        axis.set_xticks(range(len(COMPARED)), COMPARED, rotation=90, fontsize=8)
        axis.set_yticks(range(len(COMPARED)), COMPARED, fontsize=8)
        axis.set_title(task_name, fontsize=10)
    _save(figure, path)


def _save(figure: Any, path: Path, *, tight: bool = True) -> None:
    if tight:
        figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
