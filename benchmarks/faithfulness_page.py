"""Tables and plots of ``docs/explanation/which-map-can-be-trusted.md``, out of ``faithfulness*.json``.

    python benchmarks/faithfulness_page.py

The text of the page is written by hand; what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` is
replaced. Plots go to ``docs/images/faithfulness-*.svg``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faithfulness_ablation import RESULTS, ablation_photo, ablation_signed
from faithfulness_methods import BASELINES
from faithfulness_plots import draw
from faithfulness_published import published
from faithfulness_table import CHANCE, Summary, measured, methods_of, table, value

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "which-map-can-be-trusted.md"
IMAGES = ROOT / "docs" / "images"
EXPECTED = (
    "GradientRollout",
    "TransformerAttribution",
    "AttentionAwareRelevance",
    "AttentionAwareRelevance, gamma",
    "AttentionAwareRelevance, residual",
)
"""The gradient-based methods for transformers that should beat attention alone."""


def setting(summary: Summary) -> str:
    """What was measured, on how much, and with which versions."""
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    rows = []
    for name, task in summary["tasks"].items():
        pictures = "" if task["pictures"] == task["samples"] else f" on {task['pictures']} pictures"
        rows.append((name, task["about"], f"{task['samples']}{pictures}"))
    return f"{table(('Task', 'Model and inputs', 'samples'), rows)}\n\nMeasured {summary['date']} with {versions}."


def srg(summary: Summary) -> str:
    """SRG of every method in every task."""
    tasks = measured(summary, "SRG")
    rows = [
        [name, *(value(task["methods"].get(name), "SRG") for task in tasks.values())]
        for name in methods_of(summary, "SRG")
    ]
    return table(("SRG, in logits", *tasks), rows)


def expected(summary: Summary) -> str:
    """Paired differences in SRG, with a word on what they show."""
    tasks = measured(summary, "SRG")
    rows = []
    for reference in ("random", "RawAttention", "AttentionRollout"):
        for name in EXPECTED:
            gaps = [_gap(task, name, "SRG", reference) for task in tasks.values()]
            rows.append([name, reference, *gaps])
    return table(("Method", "minus", *tasks), rows)


def localisation(summary: Summary) -> str:
    """Share in the right cell, and how often that cell has most."""
    tasks = measured(summary, "share in cell")
    header = ["Share in the right cell"]
    for name in tasks:
        header += [f"{name} (chance {CHANCE[name]})", "it has most"]
    rows = []
    for method in methods_of(summary, "share in cell"):
        cells = [method]
        for task in tasks.values():
            row = task["methods"].get(method)
            cells += [value(row, "share in cell"), value(row, "right cell", interval=False)]
        rows.append(cells)
    return table(header, rows)


def against(summary: Summary) -> str:
    """Paired differences of the share in the right cell to GradCAM and to rollout."""
    tasks = measured(summary, "share in cell")
    rows = []
    for reference in ("TokenGradCam", "AttentionRollout"):
        for name in methods_of(summary, "share in cell"):
            if name not in (*BASELINES, reference, f"{reference}, signed"):
                gaps = [_gap(task, name, "share in cell", reference) for task in tasks.values()]
                rows.append([name, reference, *gaps])
    return table(("Method", "minus", *tasks), rows)


def _gap(task: dict[str, object], name: str, score: str, reference: str) -> str:
    gap = task["methods"].get(name, {}).get("differences", {}).get(score, {}).get(reference)
    if gap is None:
        return "-"
    mean, low, high = gap
    word = "**better**" if low > 0 else "**worse**" if high < 0 else "open"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}) {word}"


def removal(summary: Summary) -> str:
    """The other scores that remove units, a table a task."""
    arrows = {"comprehensiveness": "↑", "sufficiency": "↓", "log-odds": "↓", "deletion": "↓", "insertion": "↑"}
    arrows |= {"pixel test, positive": "↓", "pixel test, negative": "↑"}
    parts = []
    for task_name, task in measured(summary, "comprehensiveness").items():
        present = [one for one in arrows if task_name in measured(summary, one)]
        names = [name for name in methods_of(summary, "SRG") if "scores" in task["methods"].get(name, {})]
        rows = [[name, *(value(task["methods"][name], one, interval=False) for one in present)] for name in names]
        parts.append(table((task_name, *(f"{one} {arrows[one]}" for one in present)), rows))
    return "\n\n".join(parts)


def plausibility(summary: Summary) -> str:
    """Agreement with the words that people rated."""
    metrics = ("token AUPRC", "token F1", "token IoU")
    task = summary["tasks"].get("sentiment", {"methods": {}})
    rows = [
        [name, *(value(task["methods"].get(name), one) for one in metrics)]
        for name in methods_of(summary, "token AUPRC")
    ]
    return table(("sentiment", *metrics), rows)


def sanity(summary: Summary) -> str:
    """Class sensitivity in every task, and robustness on the digits."""
    shown = measured(summary, "class sensitivity")
    digits = summary["tasks"].get("digits", {"methods": {}})["methods"]
    robust = ("left after randomisation", "max-sensitivity", "infidelity")
    header = ("Method", *(f"class sensitivity, {name}" for name in shown), *(f"digits: {one}" for one in robust))
    rows = []
    for name in methods_of(summary, "class sensitivity"):
        if name not in ("random", "input alone", "occlusion", "truth"):
            cells = [value(task["methods"].get(name), "class sensitivity", interval=False) for task in shown.values()]
            cells += [value(digits.get(name), one, interval=False) for one in robust]
            rows.append([name, *cells])
    return table(header, rows)


def failures(summary: Summary) -> str:
    """What could not be measured, and why."""
    found = [
        f"- {name} on {task_name}: {row['error']}"
        for task_name, task in summary["tasks"].items()
        for name, row in task["methods"].items()
        if "error" in row
    ]
    return "\n".join(found) if found else "No method failed."


def _ablation() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


BLOCKS: dict[str, Callable[[Summary], str]] = {
    "setting": setting,
    "srg": srg,
    "expected": expected,
    "localisation": localisation,
    "against": against,
    "published": published,
    "ablation-photo": lambda _: ablation_photo(_ablation()),
    "ablation-signed": lambda _: ablation_signed(_ablation()),
    "removal": removal,
    "plausibility": plausibility,
    "sanity": sanity,
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
    summary = json.loads(options.summary.read_text(encoding="utf-8"))
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), summary), encoding="utf-8")
    draw(summary, IMAGES)


if __name__ == "__main__":
    main()
