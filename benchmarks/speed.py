"""How fast an explanation is, and how much memory it takes, beside plain passes and other libraries.

    python benchmarks/speed.py                       # everything that is not in speed.json yet
    python benchmarks/speed.py --only vit-8 imports --fresh
    python benchmarks/speed_page.py                  # the tables of docs/explanation/performance.md

The baseline freezes the parameters and takes the gradient of the target logits with respect to pixels or embeddings,
with fused attention. ``measuring.py`` says how time and memory are taken, ``speed_workloads.py`` what is run. Every
time that was taken is kept in ``speed.json``, round by round, so a run that was stopped (``--seconds``) is taken up
where it ended.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measuring import in_fresh_process, peak_mib, seconds_to_import, time_rounds
from speed_workloads import RUNS, WORKLOADS

OUTPUT = Path(__file__).with_suffix(".json")
SESSION_ROUNDS = 200
# `import attrib_plugin` alone loads nothing; the first method that is named brings all that it needs.
IMPORTS = {"captum.attr": "import captum.attr", "attrib_plugin": "from attrib_plugin import GradientRollout"}
Results = dict[str, Any]


def measure_time(name: str, rounds: int, stop_at: float) -> list[dict[str, float]]:
    """Rounds of a workload's runs, in this process."""
    workload = WORKLOADS[name]
    subject = workload.load()
    return time_rounds({run: RUNS[run](subject) for run in workload.runs}, rounds, stop_at=stop_at)


def measure_memory(name: str, run: str) -> dict[str, float]:
    """Memory of one run, in this process, which must be fresh."""
    workload = WORKLOADS[name]
    ready = RUNS[run](workload.load())
    return peak_mib(ready)


def measure_session(rounds: int) -> dict[str, float]:
    """Median seconds for entering and leaving a capture session on a model that was explained before."""
    import statistics

    from attrib_plugin import GradientRollout
    from attrib_plugin.capture import CaptureSession

    measured = {}
    for name in ("vit-1", "bert-512"):
        subject = WORKLOADS[name].load()
        subject.model.requires_grad_(True)
        GradientRollout(subject.model).attribute(subject.inputs[:1], target=0)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            with CaptureSession(subject.model):
                pass
            seconds.append(time.perf_counter() - start)
        measured[name] = statistics.median(seconds)
    return measured


# ------------------------------------------------------------------------------------- all of it


def fill_time(results: Results, name: str, arguments: argparse.Namespace, stop_at: float) -> None:
    """Add rounds until there are enough."""
    wanted = arguments.rounds or WORKLOADS[name].rounds
    have = results["time"].setdefault(name, [])
    if len(have) >= wanted or not WORKLOADS[name].runs:
        return
    left = stop_at - time.monotonic()
    have += in_fresh_process(
        __file__, "--do", "time", name, str(wanted - len(have)), str(left), "--threads", str(arguments.threads)
    )


def fill_memory(results: Results, name: str, arguments: argparse.Namespace, stop_at: float) -> None:
    """Measure the runs that were not measured yet."""
    have = results["memory"].setdefault(name, {})
    for run in WORKLOADS[name].memory:
        if run not in have and time.monotonic() < stop_at:
            have[run] = in_fresh_process(__file__, "--do", "memory", name, run, "--threads", str(arguments.threads))


def fill_imports(results: Results, arguments: argparse.Namespace, stop_at: float) -> None:
    """Import times in fresh processes, in turn."""
    have = results.setdefault("imports", [])
    for statement in IMPORTS.values():
        seconds_to_import(statement)
    while len(have) < (arguments.rounds or 15) and time.monotonic() < stop_at:
        have.append({name: seconds_to_import(statement) for name, statement in IMPORTS.items()})


def fill_session(results: Results, arguments: argparse.Namespace, stop_at: float) -> None:
    """The cost of a session."""
    if "session" not in results and time.monotonic() < stop_at:
        results["session"] = in_fresh_process(__file__, "--do", "session", "--threads", str(arguments.threads))


def rows() -> dict[str, Callable[[Results, argparse.Namespace, float], None]]:
    """Everything that is measured, by name."""
    every: dict[str, Callable[[Results, argparse.Namespace, float], None]] = {}
    for name, workload in WORKLOADS.items():
        if workload.runs:
            every[name] = lambda results, arguments, stop_at, name=name: fill_time(results, name, arguments, stop_at)
        if workload.memory:
            every[f"{name}-memory"] = lambda results, arguments, stop_at, name=name: fill_memory(
                results, name, arguments, stop_at
            )
    return {**every, "imports": fill_imports, "session": fill_session}


def forget(results: Results, row: str) -> None:
    """Drop what is known of a row, so that it is measured again."""
    results["time"].pop(row, None)
    results["memory"].pop(row.removesuffix("-memory"), None) if row.endswith("-memory") else None
    if row in ("imports", "session"):
        results.pop(row, None)


def read(path: Path) -> Results:
    """Earlier results, or none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"time": {}, "memory": {}}


def write(path: Path, results: Results, threads: int) -> None:
    """Keep the results with what they were measured on."""
    results["setting"] = {
        "date": date.today().isoformat(),
        "threads": threads,
        "processor": _processor(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "captum", "timm", "transformers", "grad-cam")},
    }
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def do(task: str, *arguments: str) -> Any:
    """One measurement in this process."""
    if task == "time":
        return measure_time(arguments[0], int(arguments[1]), time.monotonic() + float(arguments[2]))
    if task == "memory":
        return measure_memory(*arguments)
    return measure_session(SESSION_ROUNDS)


def main(given: Sequence[str] | None = None) -> None:
    """Measure what is missing and write it down after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=rows(), metavar="ROW", help=f"one of {', '.join(rows())}")
    parser.add_argument("--rounds", type=int, default=0, help="instead of what the row says")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further round after so many seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results of these rows")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--do", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    if arguments.do:
        sys.stdout.write(json.dumps(do(*arguments.do)) + "\n")
        return
    stop_at = time.monotonic() + arguments.seconds
    results = read(arguments.output)
    chosen = arguments.only or list(rows())
    for row in chosen if arguments.fresh else ():
        forget(results, row)
    for row in chosen:
        if time.monotonic() >= stop_at:
            break
        rows()[row](results, arguments, stop_at)
        write(arguments.output, results, arguments.threads)
        sys.stderr.write(f"{row} done\n")


if __name__ == "__main__":
    main()
