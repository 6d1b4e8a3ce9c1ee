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


def tiny_task(module):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model.patch_embed = nn.Identity()
    model.patch_embed.patch_size = (2, 2)
    return module("faithfulness_tasks").Task(
        name="tiny",
        about="",
        model=model,
        inputs=torch.rand(4, 1, 4, 4),
        targets=torch.tensor([0, 1, 2, 0]),
        others=torch.tensor([1, 2, 0, 1]),
        fill=0.0,
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


def test_the_page_shows_the_summary_that_is_there(benchmarks):
    page = benchmarks("faithfulness_page")
    summary = json.loads((ROOT / "benchmarks" / "faithfulness.json").read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")

    assert page.fill(text, summary) == text, "run: python benchmarks/faithfulness_page.py"
    assert all(f"<!-- generated: {name} -->" in text for name in page.BLOCKS)
