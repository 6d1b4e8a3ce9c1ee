"""The benchmark takes every method by itself and survives one that fails; the page shows what its summary says."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from attrib_plugin import methods

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    path = list(sys.path)
    yield importlib.import_module
    sys.path[:] = path


def tiny_task(module, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model.patch_embed = nn.Identity()
    model.patch_embed.patch_size = (2, 2)
    return module("faithfulness_task").Task(
        name="tiny",
        about="",
        model=model,
        inputs=torch.rand(4, 1, 4, 4),
        targets=torch.tensor([0, 1, 2, 0]),
        others=torch.tensor([1, 2, 0, 1]),
        fill=0.0,
        **options,
    )


def test_every_method_of_the_package_is_a_row(benchmarks):
    names = set(benchmarks("faithfulness").explainers())

    assert set(methods.__all__) <= names
    assert {"random", "occlusion", "truth", "Captum Saliency"} <= names


def test_a_method_that_fails_is_a_row_with_its_error_and_the_next_one_is_measured(benchmarks):
    run = benchmarks("faithfulness")
    task = tiny_task(benchmarks)

    def broken(_):
        raise ValueError("no map today")

    failed = run.measure(task, "broken", broken)
    absent = run.measure(task, "truth", run.explainers()["truth"])
    good = run.measure(task, "occlusion", run.explainers()["occlusion"])

    assert failed["error"] == "ValueError: no map today"
    assert absent["absent"] == "not known for this task"
    assert len(good["single"]["SRG"]) == 4


def test_occlusion_of_a_linear_model_has_the_highest_gain_of_all_rows(benchmarks):
    run = benchmarks("faithfulness")
    task = tiny_task(benchmarks)

    # The score is a sum over patches, so removing each alone gives the true order.
    best = torch.tensor(run.measure(task, "occlusion", run.explainers()["occlusion"])["single"]["SRG"])
    other = torch.tensor(run.measure(task, "random", run.explainers()["random"])["single"]["SRG"])

    assert (best > other).all()


MAPS = torch.tensor(
    [
        [[1.0, 0.0], [0.0, 0.0]],  # all in the right cell
        [[1.0, 1.0], [0.0, 2.0]],  # half of it, where most is too
        [[3.0, -9.0], [1.0, 0.0]],  # none in the right cell
        [[0.0, 0.0], [0.0, 0.0]],  # nothing anywhere
    ]
)[:, None]
CELLS = torch.tensor([0, 3, 1, 2])


def mosaic(benchmarks):
    truth = torch.zeros(4, 4).scatter_(1, CELLS[:, None], 1.0).reshape(4, 1, 2, 2)
    masks = truth.repeat_interleave(2, 2).repeat_interleave(2, 3).long()[:, 0]
    groups = torch.tensor([0, 0, 1, 1])
    return tiny_task(benchmarks, truth=truth, cells=CELLS, masks=masks, groups=groups, curves=False)


def test_places_of_worked_examples(benchmarks):
    task = mosaic(benchmarks)

    single, common = benchmarks("faithfulness_metrics").score_maps(task, "random", MAPS, lambda *_, **__: MAPS)

    assert single["share in cell"].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert single["right cell"].tolist() == [1.0, 1.0, 0.0, 0.25]  # a map of zeros gets chance
    assert single["pointing game"].tolist() == [1.0, 1.0, 0.0, 0.25]
    assert 0 < common["segmentation mean_iou"] < 1
    # The second pair: a constant map orders nothing.
    assert single["class sensitivity"].tolist()[2:] == [1.0, 1.0]


def test_intervals_and_differences_are_taken_over_pictures(benchmarks):
    summarise = benchmarks("faithfulness_summary").summarise

    def row(name, values):
        single = {"share in cell": values}
        return {"method": name, "samples": 4, "groups": [0, 0, 1, 1], "about": "", "seconds": 0.1} | {
            "single": single,
            "common": {},
        }

    rows = [row("TokenGradCam", [0.0, 0.0, 0.0, 0.0]), row("GradientRollout", [0.0, 1.0, 0.0, 1.0])]
    task = summarise({"photo pairs": rows})["tasks"]["photo pairs"]

    # Every picture has the mean of one half, so no draw of pictures has another.
    assert (task["samples"], task["pictures"]) == (4, 2)
    assert task["methods"]["GradientRollout"]["scores"]["share in cell"] == [0.5, 0.5, 0.5]
    assert task["methods"]["GradientRollout"]["differences"] == {"share in cell": {"TokenGradCam": [0.5, 0.5, 0.5]}}


def test_what_is_kept_is_measured_again_when_code_or_size_change(benchmarks, tmp_path, monkeypatch):
    run = benchmarks("faithfulness")
    calls = []
    monkeypatch.setattr(run, "CACHE", tmp_path)
    monkeypatch.setitem(run.TASKS, "digits", lambda size: calls.append(size) or tiny_task(benchmarks))

    def again(samples):
        return run.run(["digits"], ["random"], samples, fresh=False)["digits"]

    first = again(4)
    assert again(4) == first
    assert calls == [4]
    again(3)
    assert calls == [4, 3]
    monkeypatch.setattr(run, "ROW_CODE", ("methods",))
    again(3)
    assert calls == [4, 3, 3]


def test_published_figures_stand_beside_ours_with_the_agreement_of_the_orders(benchmarks):
    published = benchmarks("faithfulness_published")
    paper = published.Published(
        "T", ("A",), {"x": (3.0,), "y": (2.0,), "z": (1.0,)}, (published.Ours("digits", "SRG"),)
    )

    def task(**scores):
        return {"methods": {name: {"scores": {"SRG": [value, 0, 0]}} for name, value in scores.items()}}

    lines = published._one(paper, {"tasks": {"digits": task(x=1.0, y=2.0, z=0.5)}}).splitlines()

    assert lines[2:] == ["| x | 3 | 1.00 |", "| y | 2 | 2.00 |", "| z | 1 | 0.50 |", lines[-1]]
    assert lines[-1] == "| *agreement of the orders* |  | *+0.50 (3)* |"


def test_ablations_remove_as_the_benchmark_does(benchmarks):
    task = tiny_task(benchmarks, steps=2)
    maps = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))

    found = benchmarks("faithfulness_ablation").areas(task, maps)

    single, _ = benchmarks("faithfulness_metrics").score_maps(task, "random", maps, lambda *_, **__: maps)
    for name in ("MIF", "LIF"):
        assert found[name] == pytest.approx(single[f"{name} area"].tolist(), abs=1e-4)


def test_falls_without_single_patches_of_a_linear_model(benchmarks):
    task = tiny_task(benchmarks)
    asked = torch.tensor([[True, True], [False, False]]).expand(4, 1, 2, 2)
    signed = torch.tensor([[1.0, -1.0], [0.0, -2.0]]).expand(4, 1, 2, 2)  # lowest are patch 1 and patch 3

    found = benchmarks("faithfulness_ablation").single_patches(task, signed, asked)

    # With zeros as fill, the fall without a patch is its share of the sum.
    shares = (task.inputs[:, 0] * task.model[1].weight[task.targets].reshape(-1, 4, 4)).reshape(4, 2, 2, 2, 2)
    patch = shares.sum((2, 4)).flatten(1)  # (B, patch)
    torch.testing.assert_close(found["on the asked digit: most against"], patch[:, 1])
    torch.testing.assert_close(found["elsewhere: most against"], patch[:, 3])
    torch.testing.assert_close(found["on the asked digit: all"], patch[:, :2].mean(1))


def test_the_page_shows_the_summary_that_is_there(benchmarks):
    page = benchmarks("faithfulness_page")
    summary = json.loads((ROOT / "benchmarks" / "faithfulness.json").read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")

    assert page.fill(text, summary) == text, "run: python benchmarks/faithfulness_page.py"
    assert all(f"<!-- generated: {name} -->" in text for name in page.BLOCKS)
