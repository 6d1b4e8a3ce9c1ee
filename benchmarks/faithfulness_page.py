"""Tables and plots of ``docs/explanation/which-map-can-be-trusted.md``, out of ``faithfulness.json``.

    python benchmarks/faithfulness_page.py

The text of the page is written by hand; what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` is
replaced. Plots go to ``docs/images/faithfulness-*.svg``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

from attrib_plugin.evaluation import rank_correlation

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "which-map-can-be-trusted.md"
IMAGES = ROOT / "docs" / "images"
BASELINES = ("random", "input alone", "occlusion", "truth", "GradientRollout, negated")
FEWEST = 8  # a bootstrap of fewer samples is far too narrow
Summary = dict[str, Any]

# Published figures by our name of the method. SRG and localisation of ViT-B/16 and DINOv2-L (ResLRP 2026); areas of
# Chefer's negative and positive test for the predicted class, and segmentation (Chefer 2021, tables 1 and 2); accuracy
# of most-influential-first deletion, mean of seven families, high is good (LibraGrad 2025).
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "SRG": {
        "TransformerAttribution": (2.74, 4.43),
        "GradientRollout": (2.74, 4.44),
        "Captum IntegratedGradients": (1.23, 1.24),
        "Captum InputXGradient": (0.45, 0.45),
        "random": (-0.11, -0.10),
    },
    "pixel test": {
        "TransformerAttribution": (54.16, 17.03),
        "AttentionRollout": (53.10, 20.05),
        "RawAttention": (45.55, 23.99),
        "AttentionGradCam": (41.52, 34.06),
    },
    "segmentation": {
        "TransformerAttribution": (79.70, 86.03, 61.95),
        "AttentionRollout": (73.54, 84.76, 55.42),
        "RawAttention": (67.84, 80.24, 46.37),
        "AttentionGradCam": (64.44, 71.60, 40.82),
    },
    "deletion": {
        "GradientRollout": (48.7,),
        "RawAttention": (42.6,),
        "Captum IntegratedGradients": (32.1,),
        "AttentionRollout": (31.3,),
        "Captum InputXGradient": (30.7,),
        "random": (25.4,),
    },
}


# ------------------------------------------------------------------------------------- tables


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def value(row: dict[str, Any] | None, metric: str, *, interval: bool = True) -> str:
    """Mean and interval of a metric, or a dash."""
    found = (row or {}).get("scores", {}).get(metric)
    if found is None:
        common = (row or {}).get(metric)
        return "-" if common is None else f"{common:.2f}"
    mean, low, high = found
    return f"{mean:.2f} ({low:.2f} to {high:.2f})" if interval else f"{mean:.2f}"


def methods_of(summary: Summary, metric: str) -> list[str]:
    """Names by the mean of a metric over tasks, best first; baselines are at the end."""
    scores: dict[str, list[float]] = {}
    for task in summary["tasks"].values():
        own = {
            name: row["scores"][metric][0] for name, row in task["methods"].items() if metric in row.get("scores", {})
        }
        # Tasks have logits of different sizes, so each is counted in units of its largest score.
        largest = max((abs(one) for one in own.values()), default=1.0) or 1.0
        for name, one in own.items():
            scores.setdefault(name, []).append(one / largest)
    ordered = sorted(scores, key=lambda name: -sum(scores[name]) / len(scores[name]))
    return [name for name in ordered if name not in BASELINES] + [name for name in ordered if name in BASELINES]


def setting(summary: Summary) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    rows = [(name, task["about"], str(task["samples"])) for name, task in summary["tasks"].items()]
    return f"{table(('Task', 'Model and inputs', 'samples'), rows)}\n\nMeasured {summary['date']} with {versions}."


def srg(summary: Summary) -> str:
    tasks = {
        name: task for name, task in summary["tasks"].items() if task["methods"]["random"].get("scores", {}).get("SRG")
    }
    rows = [
        [name, *(value(task["methods"].get(name), "SRG") for task in tasks.values())]
        for name in methods_of(summary, "SRG")
    ]
    return table(("SRG, in logits", *tasks), rows)


def removal(summary: Summary) -> str:
    parts = []
    metrics = ("comprehensiveness", "sufficiency", "log-odds", "deletion", "insertion")
    for task_name, task in summary["tasks"].items():
        present = [one for one in metrics if one in task["methods"]["random"].get("scores", {})]
        if not present:
            continue
        arrows = {"comprehensiveness": "↑", "insertion": "↑"}
        header = (f"{task_name}", *(f"{one} {arrows.get(one, '↓')}" for one in present))
        names = [name for name in methods_of(summary, "SRG") if "scores" in task["methods"].get(name, {})]
        parts.append(table(header, [[name, *(value(task["methods"][name], one) for one in present)] for name in names]))
    return "\n\n".join(parts)


def localisation(summary: Summary) -> str:
    tasks = {
        name: task
        for name, task in summary["tasks"].items()
        if "share in quadrant" in task["methods"]["random"].get("scores", {})
    }
    header = ["Share in the right quadrant"]
    columns: list[tuple[str, str]] = []
    for name in tasks:
        header += [f"{name} (chance 0.25)", f"{name}: pointing game"]
        columns += [(name, "share in quadrant"), (name, "pointing game")]
    rows = [
        [method, *(value(tasks[task]["methods"].get(method), metric) for task, metric in columns)]
        for method in methods_of(summary, "share in quadrant")
    ]
    return table(header, rows)


def plausibility(summary: Summary) -> str:
    task = summary["tasks"].get("sentiment")
    if task is None:
        return "Not measured yet."
    metrics = ("token AUPRC", "token F1", "token IoU")
    names = methods_of(summary, "token AUPRC")
    return table(
        ("sentiment", *metrics), [[name, *(value(task["methods"][name], one) for one in metrics)] for name in names]
    )


def sanity(summary: Summary) -> str:
    tasks = summary["tasks"]
    shown = [
        name
        for name in tasks
        if any("class sensitivity" in row.get("scores", {}) for row in tasks[name]["methods"].values())
    ]
    robust = ("left after randomisation", "max-sensitivity", "infidelity")
    header = ("Method", *(f"class sensitivity, {name}" for name in shown), *(f"digits: {one}" for one in robust))
    names = [name for name in methods_of(summary, "SRG") if name not in ("random", "input alone", "occlusion", "truth")]
    rows = []
    for name in names:
        cells = [value(tasks[task]["methods"].get(name), "class sensitivity", interval=False) for task in shown]
        cells += [
            value(tasks.get("digits", {"methods": {}})["methods"].get(name), one, interval=False) for one in robust
        ]
        rows.append([name, *cells])
    return table(header, rows)


def expected(summary: Summary) -> str:
    """Paired differences in SRG, with a word on what they show."""
    rows = []
    for name in methods_of(summary, "SRG"):
        if name in ("truth", "GradientRollout, negated", "random", "input alone"):
            continue
        for task_name, task in summary["tasks"].items():
            gaps = task["methods"].get(name, {}).get("SRG minus", {})
            if gaps:
                shown = (
                    _verdict(gaps.get(one), task["samples"]) for one in ("random", "AttentionRollout", "RawAttention")
                )
                rows.append([name, task_name, *shown])
    return table(("Method", "Task", "minus random", "minus rollout", "minus raw attention"), rows)


def _verdict(gap: list[float] | None, samples: int) -> str:
    if gap is None:
        return "-"
    mean, low, high = gap
    if samples < FEWEST:
        return f"{mean:+.2f}, too few samples"
    word = "**better**" if low > 0 else "**worse**" if high < 0 else "open"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}) {word}"


def published(summary: Summary) -> str:
    tasks = summary["tasks"]
    parts = []
    specs: list[tuple[str, tuple[str, ...], list[tuple[str, str, float]]]] = [
        ("SRG", ("ViT-B/16", "DINOv2-L"), [(task, "SRG", 1.0) for task in tasks if task != "photo mosaics"]),
        (
            "pixel test",
            ("negative ↑, ViT-B/16", "positive ↓, ViT-B/16"),
            [("digits", "pixel test, negative", 100.0), ("digits", "pixel test, positive", 100.0)],
        ),
        (
            "segmentation",
            ("pixel accuracy", "mAP", "mIoU"),
            [
                ("photo mosaics", f"segmentation {one}", 100.0)
                for one in ("pixel_accuracy", "mean_average_precision", "mean_iou")
            ],
        ),
        (
            "deletion",
            ("MIF accuracy ↑, seven families",),
            [(task, "SRG", 1.0) for task in tasks if task != "photo mosaics"],
        ),
    ]
    for title, headings, wanted in specs:
        ours = [one for one in wanted if one[0] in tasks]
        names = sorted(PUBLISHED[title], key=lambda name: -PUBLISHED[title][name][0])
        rows, columns = [], [[] for _ in ours]
        for name in names:
            cells = [f"{one:g}" for one in PUBLISHED[title][name]]
            for column, (task, metric, scale) in zip(columns, ours, strict=True):
                row = tasks[task]["methods"].get(name, {})
                found = row.get("scores", {}).get(metric, [row.get(metric)])[0]
                column.append(found)
                cells.append("-" if found is None else f"{found * scale:.2f}")
            rows.append([name, *cells])
        rows.append(
            [
                "*agreement of the orders*",
                *([""] * len(headings)),
                *(_order_agreement(title, names, column, one) for column, one in zip(columns, ours, strict=True)),
            ]
        )
        header = (
            title,
            *(f"published: {one}" for one in headings),
            *(f"ours: {task}, {metric}" for task, metric, _ in ours),
        )
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def _order_agreement(title: str, names: list[str], column: list[float | None], ours: tuple[str, str, float]) -> str:
    """Rank correlation of our column with the first published one, or the one that it belongs to."""
    place = {"pixel test, positive": 1, "segmentation mean_average_precision": 1, "segmentation mean_iou": 2}.get(
        ours[1], 0
    )
    pairs = [
        (PUBLISHED[title][name][place], found) for name, found in zip(names, column, strict=True) if found is not None
    ]
    if len(pairs) < 3:
        return "-"
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    return f"*{float(rank_correlation(first[None], second[None])):+.2f} ({len(pairs)})*"


def failures(summary: Summary) -> str:
    found = [
        f"- {name} on {task_name}: {row['error']}"
        for task_name, task in summary["tasks"].items()
        for name, row in task["methods"].items()
        if "error" in row
    ]
    return "\n".join(found) if found else "No method failed."


# ------------------------------------------------------------------------------------- plots


def plot_srg(summary: Summary, path: Path) -> None:
    tasks = {
        name: task for name, task in summary["tasks"].items() if task["methods"]["random"].get("scores", {}).get("SRG")
    }
    names = methods_of(summary, "SRG")[::-1]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(3 * len(tasks) + 1.5, 0.27 * len(names) + 1), sharey=True, squeeze=False
    )
    for axis, (task_name, task) in zip(axes[0], tasks.items(), strict=True):
        for place, name in enumerate(names):
            score = task["methods"].get(name, {}).get("scores", {}).get("SRG")
            if score is None:
                continue
            mean, low, high = score
            color = "#777777" if name in BASELINES else "#1b6ca8"
            axis.plot([low, high], [place, place], color=color, linewidth=2)
            axis.plot(mean, place, "o", color=color, markersize=4)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(task_name, fontsize=10)
        axis.set_xlabel("SRG, logits", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_yticks(range(len(names)), names)
    _save(figure, path)


def plot_curves(summary: Summary, path: Path) -> None:
    wanted = ("random", "RawAttention", "AttentionRollout", "GradientRollout", "TransformerAttribution", "occlusion")
    tasks = {name: task for name, task in summary["tasks"].items() if "curves" in task["methods"]["random"]}
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
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(wanted), fontsize=8, frameon=False)
    figure.subplots_adjust(bottom=0.25)
    _save(figure, path, tight=False)


def plot_agreement(summary: Summary, path: Path) -> None:
    tasks = {name: task["agreement"] for name, task in summary["tasks"].items() if task.get("agreement")}
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.4 * len(tasks), 4.6), squeeze=False)
    for axis, (task_name, found) in zip(axes[0], tasks.items(), strict=True):
        keep = [number for number, name in enumerate(found["methods"]) if name != "GradientRollout, negated"]
        names = [found["methods"][number] for number in keep]
        values = [[found["rank correlation"][row][column] for column in keep] for row in keep]
        axis.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axis.set_yticks(range(len(names)), names, fontsize=6)
        axis.set_title(task_name, fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path, *, tight: bool = True) -> None:
    if tight:
        figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


# ------------------------------------------------------------------------------------- page

BLOCKS: dict[str, Callable[[Summary], str]] = {
    "setting": setting,
    "srg": srg,
    "expected": expected,
    "removal": removal,
    "localisation": localisation,
    "plausibility": plausibility,
    "sanity": sanity,
    "published": published,
    "failures": failures,
}


def fill(page: str, summary: Summary) -> str:
    """Replace every generated block."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{BLOCKS[match[1]](summary)}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\S+) -->\n.*?<!-- end -->", block, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", type=Path, default=ROOT / "benchmarks" / "faithfulness.json")
    options = parser.parse_args()
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "faithfulness"  # the same figures give the same file
    summary = json.loads(options.summary.read_text(encoding="utf-8"))
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), summary), encoding="utf-8")
    plot_srg(summary, IMAGES / "faithfulness-srg.svg")
    plot_curves(summary, IMAGES / "faithfulness-curves.svg")
    plot_agreement(summary, IMAGES / "faithfulness-agreement.svg")


if __name__ == "__main__":
    main()
