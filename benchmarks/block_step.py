"""What one layer's block step costs, part by part: shared memory against fresh memory, compiled against not.

    python benchmarks/block_step.py

One layer of 12 heads of 32 over 4,096 tokens in float32, as `GradientRollout` reads it: for every head and 256 rows at
a time the scores, their softmax, the gradient of the probabilities, the positive part of the product of both, and the
weighted sum of its rows. All variants run in turn in every round. The parts in front are fused attention of the same
layer and the two matrix products alone, which nothing that forms these entries can do without.

`torch.compile` (`dynamic=True`) gets everything after the two products, with their results in memory that is used
again, in two forms: its sum over rows written as a product of matrices, and as a sum that can be fused. The time that
compiling took is told apart. Results go to `block_step.json`; `speed_page.py` makes the table of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import time_rounds
from torch import Tensor

HEADS, TOKENS, DIM, ROWS = 12, 4096, 32, 256
OUTPUT = Path(__file__).with_suffix(".json")
Finish = Callable[[Tensor, Tensor, Tensor], Tensor]


def in_place(scores: Tensor, gradients: Tensor, weights: Tensor) -> Tensor:
    """The rest of the step without further memory."""
    torch.softmax(scores, -1, out=scores)
    return weights @ torch.mul(scores, gradients, out=gradients).clamp_(min=0)


def in_fresh_memory(scores: Tensor, gradients: Tensor, weights: Tensor) -> Tensor:
    """The rest of the step as it is usually written."""
    return weights @ (scores.softmax(-1) * gradients).clamp(min=0)


def summed(scores: Tensor, gradients: Tensor, weights: Tensor) -> Tensor:
    """The rest of the step with a sum over rows in place of a product."""
    evidence = (scores.softmax(-1) * gradients).clamp(min=0)
    return (weights[0, :, None] * evidence).sum(-2)[None]


def layer_step(layer: list[Tensor], weights: Tensor, finish: Finish | None, *, shares_memory: bool) -> Tensor:
    """All blocks of the layer; without ``finish`` only the two products."""
    query, key, value, gradient = layer
    memory = [torch.empty(ROWS, TOKENS) for _ in range(2)] if shares_memory else [None, None]
    total = torch.zeros(1, TOKENS)
    for head in range(HEADS):
        for start in range(0, TOKENS, ROWS):
            rows = slice(start, start + ROWS)
            scores = torch.mm(query[head, rows], key[head].mT, out=memory[0])
            gradients = torch.mm(gradient[head, rows], value[head].mT, out=memory[1])
            if finish is not None:
                total += finish(scores, gradients, weights[:, rows])
    return total


def compiled(finish: Finish) -> tuple[Finish, float]:
    """A compiled function, and the seconds that compiling it took."""
    function = torch.compile(finish, dynamic=True)
    start = time.perf_counter()
    function(torch.randn(ROWS, TOKENS), torch.randn(ROWS, TOKENS), torch.rand(1, ROWS))
    return function, time.perf_counter() - start


def main() -> None:
    """Measure all variants and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    # As models hand them over: heads beside each other in the memory of a token.
    layer = [torch.randn(TOKENS, HEADS, DIM).transpose(0, 1) for _ in range(4)]
    layer[0] *= DIM**-0.5
    weights = torch.rand(1, TOKENS)
    with torch.no_grad():
        product, seconds_product = compiled(in_fresh_memory)
        fused, seconds_fused = compiled(summed)
        finishes: dict[str, tuple[Finish | None, bool]] = {
            "the two products": (None, True),
            "step, fresh memory": (in_fresh_memory, False),
            "step, shared memory": (in_place, True),
            "step, shared memory, compiled with a product": (product, True),
            "step, shared memory, compiled with a sum": (fused, True),
        }
        expected = layer_step(layer, weights, in_fresh_memory, shares_memory=False)
        for finish, shares in finishes.values():
            if finish is not None:
                torch.testing.assert_close(
                    layer_step(layer, weights, finish, shares_memory=shares), expected, rtol=1e-4, atol=1e-4
                )
        runs: dict[str, Callable[[], object]] = {
            "fused attention": lambda: torch.nn.functional.scaled_dot_product_attention(*(x[None] for x in layer[:3]))
        }
        for name, (finish, shares) in finishes.items():
            runs[name] = lambda finish=finish, shares=shares: layer_step(layer, weights, finish, shares_memory=shares)
        rounds = time_rounds(runs, arguments.rounds)
    results = {
        "rounds": rounds,
        "seconds to compile": {"with a product": seconds_product, "with a sum": seconds_fused},
        "torch": torch.__version__,
        "threads": arguments.threads,
    }
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name in runs:
        sys.stdout.write(f"{name:50} {statistics.median(one[name] for one in rounds):.3f} s\n")
    for name, seconds in results["seconds to compile"].items():
        sys.stdout.write(f"compiling {name:40} {seconds:.1f} s\n")


if __name__ == "__main__":
    main()
