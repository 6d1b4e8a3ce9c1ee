"""The scores of ``faithfulness.py``: everything that ``attrib_plugin.evaluation`` can say about the maps of a task."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from faithfulness_methods import BATCH, Explain, small
from faithfulness_task import SEED, Task
from torch import Tensor

from attrib_plugin.evaluation import (
    SegmentationScore,
    cell_shares,
    class_sensitivity,
    comprehensiveness,
    deletion,
    infidelity,
    insertion,
    log_odds,
    max_sensitivity,
    parameter_randomisation,
    perturbation_curve,
    pixel_accuracy_curve,
    pointing_game,
    rank_correlation,
    sufficiency,
    token_auprc,
    token_f1,
    token_iou,
)

CURVE_POINTS = 17
RANDOMISED_SAMPLES = 20


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
        _places(task, maps, single, common)
    if name not in ("truth", "occlusion", "random", "input alone") and small(task):
        single["class sensitivity"] = class_sensitivity(
            _masked(task, explain), task.inputs, [task.targets, task.others], arguments=task.arguments
        )
        _robustness(task, explain, single, common)
    return single, common


def _places(task: Task, maps: Tensor, single: dict[str, Any], common: dict[str, Any]) -> None:
    rows, columns = task.mosaic
    shares = cell_shares(maps, rows, columns)
    right = shares.gather(1, task.cells[:, None]).squeeze(1)
    single["share in cell"] = right
    # Where several cells share the largest part, each counts by its share of them; a map of zeros gets chance.
    largest = shares == shares.amax(1, keepdim=True)
    single["right cell"] = largest.gather(1, task.cells[:, None]).squeeze(1).double() / largest.sum(1)
    single["pointing game"] = pointing_game(maps, task.truth[:, 0] > 0)
    segmentation = SegmentationScore()
    segmentation.update(_bilinear(task, maps), task.masks)
    common |= {f"segmentation {key}": value for key, value in segmentation.compute()._asdict().items()}
    if task.groups is not None:
        single["class sensitivity"] = _change_with_class(maps, task.groups)


def _change_with_class(maps: Tensor, groups: Tensor) -> Tensor:
    """``class_sensitivity`` of pictures whose maps for several classes are there already."""
    changes = torch.zeros(len(maps), dtype=torch.float64)
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        for one in members:
            others = members[members != one]
            changes[one] = 1 - rank_correlation(maps[one].expand(len(others), *maps.shape[1:]), maps[others]).mean()
    return changes


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
        probability = task.probability or "probability"
        single["comprehensiveness"] = comprehensiveness(task.model, task.inputs, maps, score=probability, **given)
        single["sufficiency"] = sufficiency(task.model, task.inputs, maps, score=probability, **given)
        logarithm = "log_probability" if task.probability is None else F.logsigmoid
        single["log-odds"] = log_odds(task.model, task.inputs, maps, score=logarithm, **given)
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
