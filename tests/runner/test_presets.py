"""The list of all presets, and the page that shows it."""

from pathlib import Path

import pytest

import attrib_plugin
from attrib_plugin import methods, presets
from attrib_plugin.runner.presets import ListedPreset, PresetTable

DOCS = Path(__file__).parents[2] / "docs"
LISTED = presets()


def test_every_preset_of_every_method_is_listed_once():
    names = (*methods.__all__, *methods.ON_TWO_SEQUENCES)
    expected = [(name, preset) for name in names for preset in getattr(methods, name).presets]

    assert [(preset.method, preset.name) for preset in LISTED] == expected
    assert len(set(expected)) == len(expected) > 10


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: f"{listed.method}.{listed.name}")
def test_a_listed_preset_is_that_of_its_method_and_says_where_it_is_from(listed):
    preset = getattr(attrib_plugin, listed.method).presets[listed.name]

    assert (listed.options, listed.paper, listed.repository, listed.note) == (
        preset.options, preset.paper, preset.repository, preset.note,
    )  # fmt: skip
    assert listed.note.endswith(".")
    assert listed.paper or listed.repository


def test_the_list_prints_as_a_table_whose_columns_line_up():
    first = ListedPreset("one", "Method", "Paper 2020", "author/code", "Peculiar.", {"start_layer": 1, "how": "mean"})
    second = ListedPreset("two", "OtherMethod", "", "author/other-code-of-a-name-too-long", "", {})

    heading, *lines = str(PresetTable([first, second])).splitlines()

    assert heading.split()[:4] == ["Method", "Preset", "Source", "Options"]
    assert lines[0].index("author/code; Paper 2020") == heading.index("Source")
    assert lines[0].index("start_layer=1, how='mean'") == heading.index("Options")
    assert lines[0].index("Peculiar.") == heading.index("What is peculiar")
    assert lines[1].index("two") == heading.index("Preset")


def test_the_markdown_table_has_a_row_for_every_preset():
    _, rule, *rows = LISTED.markdown().splitlines()

    assert rule.count("---") == rows[0].count(" | ") + 1
    for preset, row in zip(LISTED, rows, strict=True):
        assert f"| {preset.method} | `{preset.name}` |" in row
        assert preset.note in row


def test_the_page_of_presets_shows_the_table_and_the_manual_is_given_it():
    page = (DOCS / "reference" / "presets.md").read_text(encoding="utf-8")
    configuration = (DOCS / "conf.py").read_text(encoding="utf-8")

    assert "{{ preset_table }}" in page
    assert '"preset_table": presets().markdown()' in configuration


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: f"{listed.method}.{listed.name}")
def test_the_page_of_a_method_names_its_presets(listed):
    pages = {page.stem.replace("_", ""): page for page in (DOCS / "methods").glob("*.md")}

    assert f"`{listed.name}`" in pages[listed.method.lower()].read_text(encoding="utf-8")
