"""How the benchmarks measure: runs in turn, ratios with an interval, peak memory of a fresh process.

Runs that are compared are timed one after the other in every round, so that other load on the machine falls on all of
them; what is quoted is the median of the rounds' ratios with a 95 % bootstrap interval.

Memory is the resident size of the process, from ``/proc``: just before the run the kernel's high-water mark is reset
(writing 5 to ``/proc/self/clear_refs``), so that what loading the model needed for a moment does not hide the run.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], object]
DRAWS = 2000


def time_rounds(runs: Mapping[str, Run], rounds: int, *, stop_at: float = math.inf) -> list[dict[str, float]]:
    """Seconds of every run, in turn.

    Args:
        runs: What is timed, by name. Each is called once before, untimed.
        rounds: How often.
        stop_at: Moment of ``time.monotonic`` after which no further round is begun.

    Returns:
        One mapping from name to seconds for each round that was finished.
    """
    for run in runs.values():
        run()
    finished: list[dict[str, float]] = []
    while len(finished) < rounds and time.monotonic() < stop_at:
        # A fixed order would always give a run the same one before it, with the caches that it leaves.
        order = list(runs) if len(finished) % 2 == 0 else list(reversed(runs))
        seconds = {name: _seconds(runs[name]) for name in order}
        finished.append({name: seconds[name] for name in runs})
    return finished


def _seconds(run: Run) -> float:
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(rounds: Sequence[Mapping[str, float]], name: str, baseline: str) -> tuple[float, float, float]:
    """How many times the seconds of a baseline a run takes.

    Args:
        rounds: Seconds by name, round by round.
        name: The run.
        baseline: What it is compared with.

    Returns:
        Median of the rounds' ratios, and both ends of its 95 % bootstrap interval.
    """
    ratios = np.array([one[name] / one[baseline] for one in rounds if name in one and baseline in one])
    chosen = np.random.default_rng(0).integers(0, len(ratios), (DRAWS, len(ratios)))
    low, high = np.quantile(np.median(ratios[chosen], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def growth_exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float:
    """The exponent p of amount = c·size^p, by least squares of the logarithms.

    Args:
        sizes: At least two sizes.
        amounts: What was measured at each, positive.

    Returns:
        The exponent.
    """
    return float(np.polyfit(np.log(sizes), np.log(amounts), 1)[0])


def resident_mib(what: str = "VmRSS") -> float:
    """Resident size of this process, or with ``"VmHWM"`` its high-water mark, in MiB."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise RuntimeError("Expected /proc/self/status to tell the resident size; memory is measured on Linux only.")
    return int(found[1]) / 1024


def peak_mib(run: Run) -> dict[str, float]:
    """Memory of one run in this process.

    Args:
        run: What is run, once.

    Returns:
        ``idle``, the resident size before it; ``peak``, the largest during it; both in MiB.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    idle = resident_mib()
    run()
    return {"idle": round(idle, 1), "peak": round(resident_mib("VmHWM"), 1)}


def in_fresh_process(script: str, *arguments: str, timeout: float | None = None) -> Any:
    """What a script writes on its last line of output, read as JSON.

    Args:
        script: Path of a Python script.
        *arguments: Its arguments.
        timeout: Seconds after which it is ended.

    Returns:
        The value.

    Raises:
        RuntimeError: If the script fails.
    """
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed ({done.returncode}): {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds_to_import(statement: str) -> float:
    """Seconds that a fresh process needs for an import, with everything that is imported by it.

    Bytecode is kept, as an installed package has it; the first time of a package that has none yet does not count.

    Args:
        statement: The import.

    Returns:
        Wall time from the first line of the program.
    """
    program = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)
