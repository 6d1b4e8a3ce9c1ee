"""Tables of ``docs/explanation/performance.md``, out of ``speed.json`` and ``block_step.json``.

    python benchmarks/speed_page.py

The text of the page is written by hand; what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` is
replaced.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import growth_exponent, ratio
from speed_workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "performance.md"
RESULTS = ROOT / "benchmarks" / "speed.json"
BLOCK_STEP = RESULTS.with_name("block_step.json")
LENGTHS = {"bert-1024": 1024, "bert-2048": 2048, "bert-4096": 4096, "bert-8192": 8192}
FEWEST = 15
Results = dict[str, Any]
_FB, _GR = "forward and backward", "GradientRollout"


@dataclass(frozen=True)
class Figure:
    """What was measured for a goal.

    Attributes:
        text: As the page shows it.
        met: Whether the goal is met.
    """

    text: str
    met: bool


@dataclass(frozen=True)
class Goal:
    """A goal of the speed work.

    Attributes:
        about: What is measured.
        wanted: The goal in words.
        measure: The figure; raises ``KeyError`` where it was not measured.
    """

    about: str
    wanted: str
    measure: Callable[[Results], Figure]


def at_most(workload: str, run: str, baseline: str, most: float) -> Callable[[Results], Figure]:
    """Time of a run, in units of a baseline's."""

    def measure(results: Results) -> Figure:
        rounds = results["time"][workload]
        median, low, high = ratio(rounds, run, baseline)
        # One per cent more or less cannot be told apart here: a ratio of 1 is met within its interval.
        met = low <= most and median <= most + 0.02 if most == 1.0 else median <= most
        return Figure(f"{median:.2f} ({low:.2f} to {high:.2f}) x{_few(rounds)}", met)

    return measure


def times_faster(workload: str, run: str, opponent: str, least: float) -> Callable[[Results], Figure]:
    """How many times the time of a run an opponent takes."""

    def measure(results: Results) -> Figure:
        rounds = results["time"][workload]
        median, low, high = ratio(rounds, opponent, run)
        return Figure(f"{median:.3g} ({low:.3g} to {high:.3g}) x faster{_few(rounds)}", median >= least)

    return measure


def memory_at_most(workload: str, run: str, baseline: str, most: float) -> Callable[[Results], Figure]:
    """Peak memory of a run beyond that of the idle process, in units of a baseline's."""

    def measure(results: Results) -> Figure:
        own, other = (_used(results["memory"][workload][one]) for one in (run, baseline))
        return Figure(f"{own / other:.2f} x ({own:.0f} against {other:.0f} MiB)", own / other <= most)

    return measure


def growth_at_most(most: float) -> Callable[[Results], Figure]:
    """Exponent of the memory of an explanation in the number of tokens."""

    def measure(results: Results) -> Figure:
        used = [_used(results["memory"][name][_GR]) for name in LENGTHS]
        exponent = growth_exponent(list(LENGTHS.values()), used)
        return Figure(f"{exponent:.2f}", exponent <= most)

    return measure


def peak_at_most(workload: str, mib: float) -> Callable[[Results], Figure]:
    """Peak memory of the whole process."""

    def measure(results: Results) -> Figure:
        peak = results["memory"][workload][_GR]["peak"]
        return Figure(f"{peak / 1024:.2f} GiB", peak <= mib)

    return measure


def session_at_most(seconds: float) -> Callable[[Results], Figure]:
    """Entering and leaving a session."""

    def measure(results: Results) -> Figure:
        taken = results["session"]
        text = ", ".join(f"{WORKLOADS[name].about.split(',')[0]} {1000 * one:.2f} ms" for name, one in taken.items())
        return Figure(text, max(taken.values()) <= seconds)

    return measure


def import_at_most(seconds: float) -> Callable[[Results], Figure]:
    """Import time beyond Captum's."""

    def measure(results: Results) -> Figure:
        more = [one["attrib_plugin"] - one["captum.attr"] for one in results["imports"]]
        captum = statistics.median(one["captum.attr"] for one in results["imports"])
        median = statistics.median(more)
        return Figure(f"{median:+.3f} s (captum.attr {captum:.2f} s){_few(more)}", median <= seconds)

    return measure


GOALS = (
    Goal(
        "GradientRollout, ViT-B/16, 8 images, against forward and backward",
        "<= 1.00 x time",
        at_most("vit-8", _GR, _FB, 1.0),
    ),
    Goal("the same, peak memory", "<= 1.02 x", memory_at_most("vit-8", _GR, _FB, 1.02)),
    Goal("the same, against the eager formula", "not slower", at_most("vit-8", _GR, "eager formula", 1.0)),
    Goal("the same, peak memory", "<= 0.9 x", memory_at_most("vit-8", _GR, "eager formula", 0.9)),
    Goal(
        "AttentionRollout, ViT-B/16, 8 images, against forward",
        "<= 1.15 x",
        at_most("vit-8-rollout", "AttentionRollout", "forward", 1.15),
    ),
    Goal("the same, 1 image", "<= 1.15 x", at_most("vit-1-rollout", "AttentionRollout", "forward", 1.15)),
    Goal(
        "Captum IntegratedGradients, 50 steps, against GradientRollout, ViT-B/16, 1 image",
        ">= 40 x faster",
        times_faster("vit-1-integrated", _GR, "Captum IntegratedGradients, 50 steps", 40),
    ),
    Goal(
        "pytorch-grad-cam against GradientRollout, ViT-B/16, 1 image",
        ">= 1.4 x faster",
        times_faster("vit-1", _GR, "pytorch-grad-cam", 1.4),
    ),
    Goal(
        "TransformerAttribution, ViT-B/16, 1 image, against forward and backward",
        "<= 3.0 x",
        at_most("vit-1-propagation", "TransformerAttribution", _FB, 3.0),
    ),
    Goal("the same, 8 images", "<= 3.0 x", at_most("vit-8-propagation", "TransformerAttribution", _FB, 3.0)),
    Goal(
        "GradientRollout, BERT, 2 texts of 512 tokens, against forward and backward",
        "<= 1.15 x",
        at_most("bert-512", _GR, _FB, 1.15),
    ),
    Goal("the same, 4,096 tokens, without a compiler", "<= 1.7 x", at_most("bert-4096", _GR, _FB, 1.7)),
    Goal("the same, within the goal set for compiled block steps", "<= 1.35 x", at_most("bert-4096", _GR, _FB, 1.35)),
    Goal("the same, peak memory", "<= 1.3 x", memory_at_most("bert-4096", _GR, _FB, 1.3)),
    Goal("exponent of peak memory in the number of tokens, BERT, 1,024 to 8,192", "<= 1.1", growth_at_most(1.1)),
    Goal(
        "ModernBERT-shaped model, 16,384 tokens, peak of the process",
        "<= 8 GiB",
        peak_at_most("modernbert-16384", 8192),
    ),
    Goal("Llama-shaped model, 16,384 tokens, peak of the process", "<= 8 GiB", peak_at_most("llama-16384", 8192)),
    Goal(
        "10 targets of one image against one target, ViT-B/16",
        "<= 5.8 x",
        at_most("vit-1-targets", "GradientRollout, 10 targets", _GR, 5.8),
    ),
    Goal("entering and leaving a session on a model that was seen", "< 2 ms", session_at_most(0.002)),
    Goal("`from attrib_plugin import GradientRollout` beyond `import captum.attr`", "<= 0.1 s", import_at_most(0.1)),
)


# ------------------------------------------------------------------------------------- tables


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goals(results: Results) -> str:
    rows = []
    for goal in GOALS:
        try:
            figure = goal.measure(results)
        except KeyError:
            rows.append([goal.about, goal.wanted, "not measured", ""])
            continue
        rows.append([goal.about, goal.wanted, figure.text, "met" if figure.met else "**not met**"])
    return table(("What", "Goal", "Measured", ""), rows)


def times(results: Results) -> str:
    rows = []
    for name, workload in WORKLOADS.items():
        rounds = results["time"].get(name, [])
        for run in workload.runs if rounds else ():
            median, low, high = ratio(rounds, run, workload.runs[0])
            seconds = statistics.median(one[run] for one in rounds)
            interval = "" if run == workload.runs[0] else f"{median:.3f} ({low:.3f} to {high:.3f})"
            rows.append([workload.about, run, f"{seconds:.3f}", interval, str(len(rounds))])
    return table(("Workload", "Run", "seconds", "times the first run", "rounds"), rows)


def memory(results: Results) -> str:
    rows = []
    for name, workload in WORKLOADS.items():
        measured = results["memory"].get(name, {})
        for run in workload.memory:
            if run in measured:
                own, first = _used(measured[run]), _used(measured.get(workload.memory[0], measured[run]))
                row = [workload.about, run, f"{own:.0f}", f"{own / first:.2f}", f"{measured[run]['peak']:.0f}"]
                rows.append(row)
    return table(("Workload", "Run", "MiB beyond idle", "times the first run", "MiB of the whole process"), rows)


def block_step(results: Results) -> str:
    measured = results["block step"]
    rounds = measured["rounds"]
    rows = []
    for run in rounds[0]:
        low, high = np.quantile([one[run] for one in rounds], [0.25, 0.75])
        compiling = next((s for how, s in measured["seconds to compile"].items() if run.endswith(how)), None)
        rows.append([
            run,
            f"{statistics.median(one[run] for one in rounds):.3f} ({low:.3f} to {high:.3f})",
            "" if compiling is None else f"{compiling:.1f}",
        ])  # fmt: skip
    return table(("One layer", f"seconds, median (quartiles) of {len(rounds)} rounds", "seconds to compile"), rows)


def setting(results: Results) -> str:
    known = dict(results["setting"])
    measured, threads, processor = known.pop("date"), known.pop("threads"), known.pop("processor")
    versions = ", ".join(f"{name} {number}" for name, number in known.items())
    return f"Measured {measured}: {threads} threads of a processor that calls itself {processor}, float32; {versions}."


def _used(measured: dict[str, float]) -> float:
    return measured["peak"] - measured["idle"]


def _few(rounds: list[Any]) -> str:
    return "" if len(rounds) >= FEWEST else f", {len(rounds)} rounds only"


SECTIONS: dict[str, Callable[[Results], str]] = {
    "goals": goals, "times": times, "memory": memory, "block step": block_step, "setting": setting,
}  # fmt: skip


def load() -> Results:
    """What was measured."""
    block = json.loads(BLOCK_STEP.read_text(encoding="utf-8"))
    return {**json.loads(RESULTS.read_text(encoding="utf-8")), "block step": block}


def fill(page: str, results: Results) -> str:
    """The page with its generated parts made again.

    Args:
        page: The page.
        results: What :func:`load` gives.

    Returns:
        The page.
    """
    for name, section in SECTIONS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"The page has no place for {name!r}: <!-- generated: {name} --> ... <!-- end -->.")
        text = section(results)
        page = pattern.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)
    return page


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), load()), encoding="utf-8")


if __name__ == "__main__":
    main()
