"""Which map can be trusted? Every method, and baselines, by every metric, on trained models and real inputs.

    python benchmarks/faithfulness.py                        # everything, about twenty minutes of one core
    python benchmarks/faithfulness.py --samples 8            # small, to see that it runs
    python benchmarks/faithfulness.py --model digits --methods GradientRollout RawAttention
    python benchmarks/faithfulness_page.py                   # tables and plots of the documentation

Methods are those of ``attrib_plugin.methods.__all__``, so a new one takes part by itself, and Captum's ``Saliency``,
``InputXGradient`` and ``IntegratedGradients``. Baselines: a random map, a negated one, the input without the model,
occlusion of one unit at a time (it may look at what the metrics look at), and the truth where there is one. A method
that fails is a row with its error.

Every pair of task and method is kept in ``.cache/faithfulness`` until the code changes, so that a run can be
interrupted; ``--fresh`` measures again. The summary, with 95 % bootstrap intervals over samples, is
``benchmarks/faithfulness.json``; it holds all pairs of the last runs, so runs of parts complete it.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import time
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import captum.attr
import torch
import torch.nn.functional as F
from faithfulness_tasks import ROOT, SEED, TASKS, Task
from torch import Tensor
from tqdm import tqdm

from attrib_plugin import methods
from attrib_plugin.evaluation import (
    SegmentationScore,
    agreement,
    class_sensitivity,
    comprehensiveness,
    deletion,
    infidelity,
    insertion,
    log_odds,
    max_sensitivity,
    mean_interval,
    parameter_randomisation,
    perturbation_curve,
    pixel_accuracy_curve,
    pointing_game,
    share_in_cell,
    sufficiency,
    token_auprc,
    token_f1,
    token_iou,
)
from attrib_plugin.runner.explain import library_versions

CACHE = ROOT / ".cache" / "faithfulness"
SUMMARY = ROOT / "benchmarks" / "faithfulness.json"
BATCH = 128
CURVE_POINTS = 17
RANDOMISED_SAMPLES = 20
Explain = Callable[..., Tensor]


# ------------------------------------------------------------------------------------- methods


def explainers() -> dict[str, Callable[[Task], Explain]]:
    """By name, what makes a function from (inputs, target, arguments) to one value a unit."""
    found: dict[str, Callable[[Task], Explain]] = {}
    for name in methods.__all__:
        method = getattr(methods, name)
        found[name] = partial(_ours, method, {})
        sign = inspect.signature(method.__init__).parameters.get("sign")
        if sign is not None and sign.default != "signed":
            found[f"{name}, signed"] = partial(_ours, method, {"sign": "signed"})
    for name in ("Saliency", "InputXGradient", "IntegratedGradients"):
        found[f"Captum {name}"] = partial(_captum, getattr(captum.attr, name))
    found["GradientRollout, negated"] = lambda task: _negated(_ours(methods.GradientRollout, {}, task))
    found["random"] = _random
    found["input alone"] = _input_alone
    found["occlusion"] = _occlusion
    found["truth"] = _truth
    return found


def _ours(method: Any, options: dict[str, Any], task: Task) -> Explain:
    attribution = method(task.model, **options)

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        given = {"target": target} if getattr(method, "needs_gradients", True) else {}
        return attribution.attribute(
            inputs,
            additional_forward_args=arguments or None,
            return_input_shape=pixels,
            internal_batch_size=BATCH if small(task) else 4,
            **given,
        ).detach()

    return explain


def _captum(method: Any, task: Task) -> Explain:
    """Gradients of the pixels, summed over the model's patches, or of the word embeddings, summed over their axis."""
    patches = None if task.is_text else _grid(task)

    def forward(given: Tensor, *arguments: Tensor) -> Tensor:
        if task.is_text:
            return task.model(inputs_embeds=given, attention_mask=arguments[0]).logits
        return task.model(given)

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        given = task.model.get_input_embeddings()(inputs).detach() if task.is_text else inputs
        options: dict[str, Any] = {"additional_forward_args": arguments or None}
        if method is captum.attr.IntegratedGradients:
            options |= {"n_steps": task.gradient_steps, "internal_batch_size": BATCH if len(given) < 10 else len(given)}
        native = method(forward).attribute(given.clone().requires_grad_(), target=target, **options).detach()
        if task.is_text:
            return native.sum(-1)
        if pixels:
            return native
        return F.adaptive_avg_pool2d(native.sum(1, keepdim=True), patches)

    return explain


def _negated(explain: Explain) -> Explain:
    return lambda *args, **options: -explain(*args, **options)


def _random(task: Task) -> Explain:
    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        shape = inputs.shape if pixels or task.is_text else (len(inputs), 1, *_grid(task))
        return torch.rand(shape, generator=generator)

    return explain


def _input_alone(task: Task) -> Explain:
    """How far each patch is from the fill: a map that has never seen the model."""
    if task.is_text:
        raise NotImplementedError("for images only")

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        away = (inputs - torch.as_tensor(task.fill)).abs().mean(1, keepdim=True)
        return away.expand_as(inputs) if pixels else F.adaptive_avg_pool2d(away, _grid(task))

    return explain


def _occlusion(task: Task) -> Explain:
    """Fall of the score when one unit, or a few side by side, is removed alone."""
    if not task.ablated:
        raise NotImplementedError("not run: one pass for every unit of every sample takes too long here")

    def explain(inputs: Tensor, target: Any = None, arguments: tuple[Tensor, ...] = (), pixels: bool = False) -> Tensor:
        if pixels:
            raise NotImplementedError("occlusion is given by patch only")
        if task.is_text:
            mask = torch.arange(inputs.shape[1]).expand(1, -1)
            values = torch.stack(
                [_ablated(task, inputs, target, arguments, mask == unit) for unit in mask[0].tolist()], -1
            )
            return values.masked_fill(task.feature_mask < 0, 0.0) if len(inputs) == len(task.inputs) else values
        rows, columns = (side // task.ablated for side in _grid(task))
        height, width = inputs.shape[2] // rows, inputs.shape[3] // columns
        values = []
        for unit in range(rows * columns):
            chosen = torch.zeros(1, 1, *inputs.shape[2:], dtype=torch.bool)
            top, left = unit // columns * height, unit % columns * width
            chosen[..., top : top + height, left : left + width] = True
            values.append(_ablated(task, inputs, target, arguments, chosen))
        coarse = torch.stack(values, -1).reshape(-1, 1, rows, columns)
        return coarse.repeat_interleave(task.ablated, 2).repeat_interleave(task.ablated, 3)

    return explain


def _ablated(task: Task, inputs: Tensor, target: Tensor, arguments: tuple[Tensor, ...], chosen: Tensor) -> Tensor:
    fill = torch.as_tensor(task.fill, dtype=inputs.dtype)
    with torch.no_grad():
        without = _logits(task.model(torch.where(chosen, fill, inputs), *arguments))
    return -without.gather(1, torch.as_tensor(target).expand(len(inputs))[:, None]).squeeze(1)


def _truth(task: Task) -> Explain:
    if task.truth is None:
        raise NotImplementedError("not known for this task")
    return lambda *args, **options: task.truth


def small(task: Task) -> bool:
    """Whether a forward pass of the model is cheap."""
    return task.inputs[0].numel() < 10_000


def _grid(task: Task) -> tuple[int, int]:
    size = task.model.patch_embed.patch_size
    return task.inputs.shape[2] // size[0], task.inputs.shape[3] // size[1]


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


# ------------------------------------------------------------------------------------- metrics


def score_maps(task: Task, name: str, maps: Tensor, explain: Explain) -> tuple[dict[str, Any], dict[str, Any]]:
    """All metrics of a task: values a sample, and what is one number or curve for all samples."""
    single: dict[str, Any] = {}
    common: dict[str, Any] = {}
    if task.curves:
        _removal(task, maps, single, common)
    if task.is_text:
        valid = task.feature_mask >= 0
        single["token F1"] = token_f1(maps, task.rationales, valid=valid)
        single["token IoU"] = token_iou(maps, task.rationales, valid=valid)
        single["token AUPRC"] = token_auprc(maps, task.rationales, valid=valid)
    if task.cells is not None:
        single["share in quadrant"] = share_in_cell(maps, task.cells)
        single["pointing game"] = pointing_game(maps, task.truth[:, 0] > 0)
        segmentation = SegmentationScore()
        segmentation.update(_bilinear(task, maps), task.masks)
        common |= {f"segmentation {key}": value for key, value in segmentation.compute()._asdict().items()}
    if name not in ("truth", "occlusion", "random", "input alone") and small(task):
        single["class sensitivity"] = class_sensitivity(
            _masked(task, explain), task.inputs, [task.targets, task.others], arguments=task.arguments
        )
        _robustness(task, explain, single, common)
    return single, common


def _masked(task: Task, explain: Explain) -> Explain:
    """Special tokens and padding do not count."""
    if not task.is_text:
        return explain
    return lambda *args, **options: explain(*args, **options).masked_fill(task.feature_mask < 0, 0.0)


def _bilinear(task: Task, maps: Tensor) -> Tensor:
    return F.interpolate(maps, task.inputs.shape[2:], mode="bilinear", align_corners=False)


def _removal(task: Task, maps: Tensor, single: dict[str, Any], common: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "baselines": task.fill,
        "additional_forward_args": task.arguments or None,
        "target": task.targets,
        "feature_mask": task.feature_mask,
        "internal_batch_size": BATCH,
    }
    curves = {
        order: perturbation_curve(task.model, task.inputs, maps, order=order, steps=task.steps, **given)
        for order in ("most", "least")
    }
    single["SRG"] = curves["least"].area() - curves["most"].area()
    single["MIF area"], single["LIF area"] = curves["most"].area(), curves["least"].area()
    common["curves"] = {order: _mean_curve(curve) for order, curve in curves.items()}
    if small(task):
        single["comprehensiveness"] = comprehensiveness(task.model, task.inputs, maps, **given)
        single["sufficiency"] = sufficiency(task.model, task.inputs, maps, **given)
        single["log-odds"] = log_odds(task.model, task.inputs, maps, **given)
    if task.black is not None:
        single["deletion"] = deletion(task.model, task.inputs, maps, **given)
        single["insertion"] = insertion(task.model, task.inputs, maps, **given)
        given |= {"baselines": task.black, "feature_mask": None}
        for order, name in (("most", "pixel test, positive"), ("least", "pixel test, negative")):
            curve = pixel_accuracy_curve(task.model, task.inputs, _bilinear(task, maps), order=order, **given)
            single[name] = curve.area()


def _mean_curve(curve: Any) -> list[float]:
    """The mean over samples at evenly spaced shares."""
    at = torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64)
    means = []
    for share in at.tolist():
        # The last point at or before the share, and the way to the next one.
        before = (curve.shares <= share + 1e-12).sum(1, keepdim=True).clamp(1, curve.shares.shape[1]) - 1
        after = (before + 1).clamp(max=curve.shares.shape[1] - 1)
        x0, x1 = curve.shares.gather(1, before), curve.shares.gather(1, after)
        y0, y1 = curve.scores.gather(1, before), curve.scores.gather(1, after)
        way = torch.where(x1 > x0, (share - x0) / (x1 - x0).clamp(min=1e-12), torch.zeros_like(x0))
        means.append(float((y0 + way * (y1 - y0)).mean()))
    return means


def _robustness(task: Task, explain: Explain, single: dict[str, Any], common: dict[str, Any]) -> None:
    if not task.robustness:
        return

    def pixels(inputs: Any, **options: Any) -> Any:
        """In pixels; Captum's sensitivity_max hands over a tuple and wants one back."""
        if isinstance(inputs, tuple):
            return (explain(inputs[0], pixels=True, **options),)
        return explain(inputs, pixels=True, **options)

    part = slice(0, RANDOMISED_SAMPLES)
    inputs, targets = task.inputs[part], task.targets[part]
    torch.manual_seed(SEED)
    single["max-sensitivity"] = max_sensitivity(pixels, inputs, 0.05, n_perturb_samples=3, target=targets)
    torch.manual_seed(SEED)
    single["infidelity"] = infidelity(
        task.model, inputs, pixels(inputs, target=targets), 0.2, target=targets, n_perturb_samples=20
    )
    modules = [
        "head",
        "norm",
        *(f"blocks.{number}" for number in reversed(range(len(task.model.blocks)))),
        "patch_embed",
    ]
    left = parameter_randomisation(explain, inputs, task.model, modules=modules, target=targets)
    common["randomised"] = {module: float(values.mean()) for module, values in left.items()}
    single["left after randomisation"] = left["patch_embed"]


# ------------------------------------------------------------------------------------- running


def measure(task: Task, name: str, build: Callable[[Task], Explain]) -> dict[str, Any]:
    """One row: scores a sample, or the error."""
    row: dict[str, Any] = {"task": task.name, "method": name, "samples": len(task.inputs)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explain = build(task)
            start = time.process_time()
            maps = explain(task.inputs, target=task.targets, arguments=task.arguments)
            row["seconds"] = (time.process_time() - start) / len(maps)
            single, common = score_maps(task, name, maps, explain)
    except NotImplementedError as error:
        return row | {"absent": str(error)}
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    row["single"] = {key: [round(value, 6) for value in values.double().tolist()] for key, values in single.items()}
    row["maps"] = maps.double().flatten(1).tolist()
    return row | {"common": common}


def fingerprint(method: str, samples: int) -> str:
    """Changes when the code that a row rests on does."""
    package = ROOT / "attrib_plugin"
    rooms = ["functional", "capture", "families", "propagation", "methods/base", "evaluation"]
    files = [path for room in rooms for path in sorted((package / room).rglob("*.py"))]
    files += [package / "records.py", Path(__file__), Path(__file__).with_name("faithfulness_tasks.py")]
    own = getattr(methods, method.partition(",")[0], None)
    if own is not None:
        files.append(Path(inspect.getfile(own)))
    digest = hashlib.sha256(f"{samples} {torch.__version__}".encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept(path: Path, mark: str) -> dict[str, Any] | None:
    """A row of an earlier run of the same code."""
    if not path.is_file():
        return None
    row = json.loads(path.read_text(encoding="utf-8"))
    return row if row.get("fingerprint") == mark else None


def run(
    names: list[str], chosen: list[str] | None, samples: int | None, *, fresh: bool
) -> dict[str, list[dict[str, Any]]]:
    """Rows by task."""
    CACHE.mkdir(parents=True, exist_ok=True)
    builders = {name: one for name, one in explainers().items() if chosen is None or name in chosen}
    found: dict[str, list[dict[str, Any]]] = {}
    for task_name in names:
        load, default = TASKS[task_name]
        size = samples or default
        task: Task | None = None
        rows = found.setdefault(task_name, [])
        for name, build in tqdm(builders.items(), desc=task_name):
            path = CACHE / f"{task_name} {name}.json".replace(" ", "-").replace(",", "")
            mark = fingerprint(name, size)
            row = None if fresh else kept(path, mark)
            if row is None:
                task = task or load(size)
                torch.manual_seed(SEED)
                row = measure(task, name, build) | {"fingerprint": mark, "about": task.about}
                path.write_text(json.dumps(row), encoding="utf-8")
            rows.append(row)
    return found


# ------------------------------------------------------------------------------------- summary

LOW_IS_GOOD = ("MIF area", "sufficiency", "log-odds", "deletion", "pixel test, positive")
REFERENCES = ("random", "RawAttention", "AttentionRollout")


def summarise(found: dict[str, list[dict[str, Any]]], before: dict[str, Any]) -> dict[str, Any]:
    """Means and intervals, differences to the references, and agreement between methods."""
    tasks = dict(before.get("tasks", {}))
    for task_name, rows in found.items():
        earlier = tasks.get(task_name, {}).get("methods", {})
        same = {row["samples"] for row in rows} == {tasks.get(task_name, {}).get("samples")}
        shown = dict(earlier) if same else {}
        singles = {row["method"]: row["single"] for row in rows if "single" in row}
        for row in rows:
            shown[row["method"]] = _summarised(row, singles)
        tasks[task_name] = {
            "about": rows[0]["about"],
            "samples": rows[0]["samples"],
            "methods": shown,
            "agreement": _fuller(_agreement(rows), tasks.get(task_name, {}).get("agreement")),
        }
    order = [name for name in TASKS if name in tasks]
    return {
        "date": date.today().isoformat(),
        "versions": library_versions(),
        "tasks": {name: tasks[name] for name in order},
    }


def _summarised(row: dict[str, Any], singles: dict[str, Any]) -> dict[str, Any]:
    if "single" not in row:
        return {key: row[key] for key in ("error", "absent") if key in row}
    scores = {key: _rounded(mean_interval(torch.tensor(values))) for key, values in row["single"].items()}
    differences = {}
    own = row["single"].get("SRG")
    for reference in REFERENCES:
        if own and reference != row["method"] and singles.get(reference, {}).get("SRG"):
            gap = torch.tensor(own) - torch.tensor(singles[reference]["SRG"])
            differences[reference] = _rounded(mean_interval(gap))
    result = {"seconds": float(f"{row['seconds']:.2g}"), "scores": scores, "SRG minus": differences}
    return result | {key: _rounded_tree(value) for key, value in row["common"].items()}


def _agreement(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    maps = {row["method"]: torch.tensor(row["maps"]) for row in rows if "maps" in row}
    if len(maps) < 3:
        return None
    names, table = agreement(maps)
    return {"methods": list(names), "rank correlation": _rounded_tree(table.tolist())}


def _fuller(new: dict[str, Any] | None, old: dict[str, Any] | None) -> dict[str, Any] | None:
    """A run of a few methods does not replace the table of all."""
    return old if old and len(old["methods"]) > len((new or {"methods": ()})["methods"]) else new


def _rounded(interval: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in interval]


def _rounded_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded_tree(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded_tree(one) for one in value]
    return float(f"{value:.4g}")


def print_table(summary: dict[str, Any], names: list[str]) -> None:
    for name in names:
        task = summary["tasks"][name]
        print(f"\n{name}: {task['samples']} samples\n")
        for method, row in task["methods"].items():
            if "scores" not in row:
                print(f"  {method}: {row.get('error') or row.get('absent')}")
                continue
            shown = {key: value[0] for key, value in row["scores"].items()}
            print(f"  {method}: " + ", ".join(f"{key} {value:.3f}" for key, value in shown.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="samples of every task; the default differs by task")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="names of rows; all by default")
    parser.add_argument("--model", nargs="+", choices=list(TASKS), default=list(TASKS), help="tasks; all by default")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept from earlier runs")
    parser.add_argument("--output", type=Path, default=SUMMARY)
    options = parser.parse_args()
    unknown = set(options.methods or ()) - set(explainers())
    if unknown:
        parser.error(f"unknown methods {sorted(unknown)}; there are {', '.join(explainers())}")
    torch.set_num_threads(1)
    start = time.process_time()
    found = run(options.model, options.methods, options.samples, fresh=options.fresh)
    before = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    summary = summarise(found, before)
    options.output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print_table(summary, options.model)
    print(f"\n{time.process_time() - start:.0f} CPU seconds; wrote {options.output}")


if __name__ == "__main__":
    main()
