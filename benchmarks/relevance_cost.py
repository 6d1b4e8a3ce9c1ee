"""What relevance propagation costs beside a plain forward and backward pass of the same model.

ViT-B/16 at 224 pixels with random weights (speed does not depend on them), float32. The baseline freezes the
parameters and takes the gradient of the target logits with respect to the pixels, with fused attention. Methods and
baseline run in turn, so that other load on the machine falls on both; the ratio is the median over rounds, with a 95 %
bootstrap interval. Peak memory is the largest resident size of a fresh process, less that of a process that only
loads the model.

Run: ``python benchmarks/relevance_cost.py`` (some minutes; ``--rounds 3 --batches 1`` for a look).
Writes ``benchmarks/relevance_cost.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from attrib_plugin import AttentionAwareRelevance, GradientRollout, LayerwiseRelevance, TransformerAttribution

OUTPUT = Path(__file__).with_suffix(".json")
METHODS = {
    "GradientRollout": GradientRollout,
    "TransformerAttribution": TransformerAttribution,
    "AttentionAwareRelevance": AttentionAwareRelevance,
    "LayerwiseRelevance": LayerwiseRelevance,
}


def load_model() -> nn.Module:
    """ViT-B/16 with random weights and frozen parameters."""
    torch.manual_seed(0)
    return timm.create_model("vit_base_patch16_224", num_classes=1000).eval().requires_grad_(False)


def load_images(batch: int) -> tuple[Tensor, Tensor]:
    """Random images, and a class for each."""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1)), torch.arange(batch)


def run_baseline(model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Forward and backward to the pixels."""
    pixels = images.clone().requires_grad_()
    torch.autograd.grad(model(pixels).gather(1, targets[:, None]).sum(), pixels)


def make_runs(model: nn.Module, batch: int, names: Sequence[str]) -> dict[str, Callable[[], object]]:
    """The baseline and every method, ready to be called."""
    images, targets = load_images(batch)
    runs: dict[str, Callable[[], object]] = {"baseline": lambda: run_baseline(model, images, targets)}
    for name in names:
        runs[name] = partial(METHODS[name](model).attribute, images, target=targets)
    return runs


def time_ratios(batch: int, rounds: int, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Seconds and ratios to the baseline, wall time."""
    runs = make_runs(load_model(), batch, names)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    draws = np.random.default_rng(0)
    results: dict[str, dict[str, object]] = {}
    for name, own in seconds.items():
        ratios = np.array(own) / np.array(seconds["baseline"])
        medians = np.median(ratios[draws.integers(0, rounds, (2000, rounds))], axis=1)
        results[name] = {
            "seconds": round(statistics.median(own), 4),
            "ratio": round(float(np.median(ratios)), 3),
            "interval": [round(float(bound), 3) for bound in np.quantile(medians, [0.025, 0.975])],
        }
    return results


def peak_memory(batch: int, name: str) -> float:
    """Peak resident size of one call in a fresh process, in MiB."""
    command = [sys.executable, __file__, "--once", name, "--batches", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_once(batch: int, name: str) -> None:
    """Run one thing and write the peak resident size of this process."""
    model = load_model()
    if name != "nothing":
        make_runs(model, batch, [name] if name in METHODS else [])[name]()
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--once", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.once:
        run_once(arguments.batches[0], arguments.once)
        return
    results: dict[str, object] = {"torch": torch.__version__, "timm": timm.__version__, "threads": arguments.threads}
    for batch in arguments.batches:
        measured = time_ratios(batch, arguments.rounds, arguments.methods)
        idle = peak_memory(batch, "nothing")
        for name, row in measured.items():
            row["peak_mib"] = round(peak_memory(batch, name) - idle)
            sys.stdout.write(f"B={batch} {name}: {row}\n")
        results[f"batch_{batch}"] = measured
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
