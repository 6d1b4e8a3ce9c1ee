"""Where relevance stays on its way down: a report that a user can print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrib_plugin.propagation import Flow


@dataclass(frozen=True, eq=False)
class ConservationReport:
    """Sums of relevance at each stage of a propagation, one number a sample.

    Attributes:
        composite: Name of the rules.
        stages: Name of each stage, from the score down, with the sum of relevance there.
        kinds: Each kind of operation with the relevance that it received and passed on, over all of its operations.
    """

    composite: str
    stages: tuple[tuple[str, Tensor], ...]
    kinds: tuple[tuple[str, Tensor, Tensor], ...]

    @property
    def error(self) -> Tensor:
        """Largest departure from the relevance at the start, as a share of it, one number a sample."""
        start = self.stages[0][1]
        sums = torch.stack([total for _, total in self.stages])
        return ((sums - start).abs() / start.abs().clamp(min=torch.finfo(start.dtype).tiny)).amax(0)

    def __str__(self) -> str:
        """A table in plain text: means over samples."""
        start = self.stages[0][1]
        lines = [f"Relevance by {self.composite} (mean over {len(start)} samples)", f"{'stage':<24}{'sum':>14}"]
        lines += [f"{name:<24}{float(total.mean()):>14.6g}" for name, total in self.stages]
        lines += ["", f"{'operations':<24}{'received':>14}{'passed on':>14}{'kept':>14}"]
        for name, received, passed in self.kinds:
            got, gave = float(received.mean()), float(passed.mean())
            lines.append(f"{name:<24}{got:>14.6g}{gave:>14.6g}{got - gave:>14.6g}")
        return "\n".join(lines)


def conservation_report(composite: str, sums: Sequence[Tensor], flows: Sequence[Flow]) -> ConservationReport:
    """Put together what a propagation wrote down.

    Args:
        composite: Name of the rules.
        sums: Sum of relevance after each block from the top, at the entrance of the first, and at the input.
        flows: What passed every operation, from the score down; of several batches one after another.

    Returns:
        The report.
    """
    n_samples = len(sums[0])
    first = [flow for flow in flows if flow.module == flows[0].module and flow.kind == flows[0].kind]
    start = torch.cat([flow.received for flow in _one_a_batch(first, n_samples)])
    n_blocks = len(sums) - 2
    names = [f"after block {n_blocks - 1 - i}" for i in range(n_blocks)] + ["before block 0", "input"]
    kinds: dict[str, tuple[Tensor, Tensor]] = {}
    for flow in flows:
        received, passed = kinds.get(flow.kind, (torch.zeros(()), torch.zeros(())))
        kinds[flow.kind] = (received + flow.received.sum() / n_samples, passed + flow.passed.sum() / n_samples)
    return ConservationReport(
        composite=composite,
        stages=(("score", start), *zip(names, sums, strict=True)),
        kinds=tuple((kind, *pair) for kind, pair in kinds.items()),
    )


def _one_a_batch(flows: Sequence[Flow], n_samples: int) -> list[Flow]:
    chosen: list[Flow] = []
    for flow in flows:
        if sum(len(one.received) for one in chosen) < n_samples:
            chosen.append(flow)
    return chosen
