"""The page of models says what the committed summary of the sweep says."""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import models_page
import pytest


def record(name, **changes):
    shared = {"library": "timm", "kind": "eva", "family": "plain", "modality": "image", "reason": "", "seconds": 1.0}
    return {**shared, "name": name, "attention": {"sdpa": "works"}, "verdict": "works", **changes}


def test_the_page_is_up_to_date_with_its_data():
    summary = json.loads(models_page.SUMMARY.read_text(encoding="utf-8"))

    assert models_page.PAGE.read_text(encoding="utf-8") == models_page.page(summary), "run scripts/models_page.py"


def test_the_front_page_has_the_counts_of_the_summary():
    summary = json.loads(models_page.SUMMARY.read_text(encoding="utf-8"))
    front = " ".join((models_page.DOCS.parents[1] / "README.md").read_text(encoding="utf-8").split())
    counted = {
        (library, verdict): sum(
            len(group["names"])
            for group in summary["groups"]
            if (group["library"], group["verdict"]) == (library, verdict)
        )
        for library in ("timm", "transformers")
        for verdict in models_page.VERDICTS
    }

    for library, number in summary["listed"].items():
        works, refused, unverified, without = (counted[library, verdict] for verdict in models_page.VERDICTS)
        version = summary["versions"][library]
        said = f"{library} {version}: of {number:,}, {works} work, {refused} are refused, {without} have no attention"
        assert f"{said}, {unverified} could not be built" in front


def test_models_that_differ_in_name_alone_are_one_group():
    groups = models_page.summarise([record("b"), record("a", seconds=2.0), record("c", verdict="refused")])["groups"]

    assert [group["names"] for group in groups] == [["c"], ["a", "b"]]


def test_every_model_is_counted_and_listed_once():
    records = [record("a"), record("b"), record("c", verdict="refused", reason="it | is <odd>")]

    page = models_page.page(models_page.summarise(records))

    assert re.search(r"\| timm \| 3 of \d+ \| 2 \| 1 \| 0 \| 0 \|", page)
    assert "| plain | timm | image | sdpa | 2 | `eva` |" in page
    assert "| timm | `eva` | 1 | it \\| is &lt;odd> |" in page
    assert [page.count(f"`{name}`") for name in "abc"] == [1, 1, 1]


def test_new_results_replace_those_of_the_same_models_and_leave_the_others():
    summary = models_page.summarise([record("a", verdict="unverified"), record("b")])

    joined = models_page.joined(summary, [record("a"), record("c")])

    verdicts = {one["name"]: one["verdict"] for one in joined}
    assert verdicts == {"a": "works", "b": "works", "c": "works"}
    assert [group["names"] for group in models_page.summarise(joined)["groups"]] == [["a", "b", "c"]]


def test_results_of_other_versions_are_not_kept_beside_new_ones():
    summary = {**models_page.summarise([record("a"), record("b")]), "versions": {"timm": "0.1"}}

    with pytest.raises(ValueError, match="1 models of the summary"):
        models_page.joined(summary, [record("a")])
    assert len(models_page.joined(summary, [record("a"), record("b")])) == 2
