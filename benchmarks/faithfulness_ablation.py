"""Why two orderings of ``faithfulness.py`` come out otherwise: its protocol on variants, with paired differences.

    python benchmarks/faithfulness_ablation.py              # what is not measured yet; seven minutes of a core for all
    python benchmarks/faithfulness_ablation.py --fresh --task digits
    python benchmarks/faithfulness_page.py                  # the tables of the documentation

On photos, variants of ``TransformerAttribution`` and of ``GradientRollout``, which is the same formula with plain
attention in place of its relevance. On digits, the evidence for and against of signed maps taken apart, and what the
score really does when the patches with most evidence against are removed. Areas of the curves, a value a sample, are
kept in ``faithfulness_ablation.json``: rows that are there are not measured again, unless ``--fresh`` says so.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from faithfulness import SAMPLES
from faithfulness_methods import BATCH, explainers
from faithfulness_table import table
from faithfulness_task import Task
from faithfulness_tasks import TASKS
from torch import Tensor

from attrib_plugin import AttentionRollout, GradientRollout, TransformerAttribution
from attrib_plugin.evaluation import mean_interval, perturbation_curve
from attrib_plugin.functional import gradient_weighted_attention
from attrib_plugin.propagation.composites import chefer2021
from attrib_plugin.propagation.rules import Summands

RESULTS = Path(__file__).with_name("faithfulness_ablation.json")
Areas = dict[str, dict[str, list[float]]]
"""By row, the areas under both curves, a value a sample."""


@dataclass(frozen=True)
class Variant:
    """A method with options."""

    method: Any
    options: Mapping[str, Any] = field(default_factory=dict)


class UnsignedRelevance(TransformerAttribution):
    """The size of relevance in place of relevance: the gradient alone decides which pairs count."""

    def _evidence(self, block: Any) -> Tensor:
        return gradient_weighted_attention(block.relevant.abs(), block.weighted[1], sign="positive")[None]


PROPORTIONAL = chefer2021().with_rules(sum=Summands("proportional"))
PHOTO: dict[str, Variant] = {
    "AttentionRollout": Variant(AttentionRollout),
    "GradientRollout": Variant(GradientRollout),
    "TransformerAttribution": Variant(TransformerAttribution),
    "TransformerAttribution, proportional sums": Variant(TransformerAttribution, {"composite": PROPORTIONAL}),
    "TransformerAttribution, relevance alone": Variant(TransformerAttribution, {"weighting": "none"}),
    "TransformerAttribution, relevance without its sign": Variant(UnsignedRelevance),
    "TransformerAttribution, from layer 6": Variant(TransformerAttribution, {"start_layer": 6}),
    "GradientRollout, from layer 6": Variant(GradientRollout, {"start_layer": 6}),
}
DIGITS = ("digits", "digits, filled with black", "multi-digits")
SIGNED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "for": lambda positive, _, __: positive,
    "against, as if it were for": lambda _, negative, __: negative,
    "for minus against (signed)": lambda positive, negative, _: positive - negative,
    "for plus against": lambda positive, negative, _: positive + negative,
    "for minus against, but for alone on the asked digit": lambda positive, negative, asked: (
        positive - negative.masked_fill(asked, 0.0)
    ),
}
"""Maps out of the evidence for, the evidence against, and the patches of the digit that is asked for."""


def areas(task: Task, maps: Tensor) -> dict[str, list[float]]:
    """Areas under the curves of removal, as ``faithfulness.py`` takes them."""
    found = {}
    for name, order in (("MIF", "most"), ("LIF", "least")):
        curve = perturbation_curve(
            task.model,
            task.inputs,
            maps,
            order=order,
            steps=task.steps,
            baselines=task.fill,
            target=task.targets,
            internal_batch_size=BATCH,
        )
        found[name] = [round(value, 4) for value in curve.area().tolist()]
    return found


def photo_map(task: Task, variant: Variant) -> Tensor:
    """The map of a variant, by patch."""
    given = {"target": task.targets} if variant.method.needs_gradients else {}
    method = variant.method(task.model, **variant.options)
    return method.attribute(task.inputs, return_input_shape=False, internal_batch_size=4, **given).detach()


def measure_photos(rows: Areas) -> None:
    """Add the rows that are missing."""
    missing = {name: variant for name, variant in PHOTO.items() if name not in rows}
    task = TASKS["photo"](SAMPLES["photo"]) if missing else None
    for name, variant in missing.items():
        rows[name] = areas(task, photo_map(task, variant))


def measure_digits(name: str, rows: Areas, falls: dict[str, list[float]]) -> None:
    """Add the rows that are missing, and what the score does without single patches."""
    wanted = [one for one in SIGNED if name == "multi-digits" or "asked digit" not in one]
    names = [f"{method.__name__}: {one}" for method in (GradientRollout, TransformerAttribution) for one in wanted]
    if all(one in rows for one in names) and falls:
        return
    start = name.partition(",")[0]
    task = TASKS[start](SAMPLES[start])
    task = replace(task, fill=0.0) if name.endswith("black") else task
    for method in (GradientRollout, TransformerAttribution):
        positive, negative = (
            method(task.model, sign=sign).attribute(task.inputs, target=task.targets, return_input_shape=False).detach()
            for sign in ("positive", "negative")
        )
        asked = torch.ones_like(positive) > 0 if task.truth is None else task.truth > 0
        for one in wanted:
            rows[f"{method.__name__}: {one}"] = areas(task, SIGNED[one](positive, negative, asked))
        if method is GradientRollout:
            falls |= {
                key: [round(value, 4) for value in values.tolist()]
                for key, values in single_patches(task, positive - negative, asked).items()
            }


def single_patches(task: Task, signed: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """Fall of the score without one patch: mean over the eighth with most evidence against, and over all patches."""
    with torch.no_grad():
        scores = task.model(task.inputs).gather(1, task.targets[:, None]).squeeze(1)
    fall = scores[:, None] + explainers()["occlusion"](task)(task.inputs, target=task.targets).flatten(1)
    found = {}
    for place, inside in (("on the asked digit", asked), ("elsewhere", ~asked)):
        count = int(inside[0].sum())
        if count:
            values = signed.masked_fill(~inside, torch.inf).flatten(1)
            lowest = values.argsort(1)[:, : max(1, count // 8)]
            found[f"{place}: most against"] = fall.gather(1, lowest).mean(1)
            found[f"{place}: all"] = (fall * inside.flatten(1)).sum(1) / count
    return found


def ablation_photo(results: dict[str, Any]) -> str:
    """The rows on photos, with paired differences."""
    rows = results["photo"]["rows"]
    references = ("TransformerAttribution", "AttentionRollout", "GradientRollout")
    lines = [
        [name, _shown(_gain(rows[name])), *(_against(rows, name, reference) for reference in references)]
        for name in PHOTO
        if name in rows
    ]
    return table(("Photo", "SRG", *(f"minus {name}" for name in references)), lines)


def ablation_signed(results: dict[str, Any]) -> str:
    """The parts of signed maps, and the fall of the score without single patches."""
    lines = []
    for method in ("GradientRollout", "TransformerAttribution"):
        for one in SIGNED:
            name = f"{method}: {one}"
            tasks = [results[task]["rows"] for task in DIGITS]
            lines.append([name, *(_beside(rows, name, f"{method}: for") for rows in tasks)])
    falls = []
    for task in DIGITS:
        found = {key: torch.tensor(values) for key, values in results[task]["falls"].items()}
        for place in dict.fromkeys(key.partition(":")[0] for key in found):
            against, every = found[f"{place}: most against"], found[f"{place}: all"]
            falls.append([f"{task}, {place}", _shown(against), _shown(every), _signed(against - every)])
    header = ("Fall of the score without one patch", "most against", "any patch", "difference")
    return f"{table(('SRG, and minus that of the evidence for', *DIGITS), lines)}\n\n{table(header, falls)}"


def _gain(row: dict[str, list[float]]) -> Tensor:
    return torch.tensor(row["LIF"], dtype=torch.float64) - torch.tensor(row["MIF"], dtype=torch.float64)


def _against(rows: Areas, name: str, reference: str) -> str:
    return "-" if name == reference else _signed(_gain(rows[name]) - _gain(rows[reference]))


def _beside(rows: Areas, name: str, reference: str) -> str:
    if name not in rows:
        return "-"
    mean = f"{float(_gain(rows[name]).mean()):.2f}"
    return mean if name == reference else f"{mean}, {_against(rows, name, reference)}"


def _shown(values: Tensor) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*mean_interval(values))


def _signed(values: Tensor) -> str:
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*mean_interval(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=("photo", *DIGITS), default=("photo", *DIGITS))
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name in options.task:
        found = {} if options.fresh else results.get(name, {})
        rows, falls = found.get("rows", {}), found.get("falls", {})
        if name == "photo":
            measure_photos(rows)
        else:
            measure_digits(name, rows, falls)
        results[name] = {"rows": rows} | ({"falls": falls} if falls else {})
        RESULTS.write_text(json.dumps(results, indent=0) + "\n", encoding="utf-8")
    if "photo" in results:
        print(ablation_photo(results), end="\n\n")
    if all(name in results for name in DIGITS):
        print(ablation_signed(results))


if __name__ == "__main__":
    main()
