"""The Python code of README and documentation runs as it stands, offline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs/index.md",
    *sorted((ROOT / "docs/tutorials").glob("*.md")),
    *sorted((ROOT / "docs/methods").glob("*.md")),
    ROOT / "docs/explanation/relevance-propagation.md",
    ROOT / "docs/explanation/windows.md",
    ROOT / "docs/reference/presets.md",
    ROOT / "docs/how-to/score-a-map.md",
    ROOT / "docs/how-to/add-a-method.md",
    ROOT / "docs/how-to/add-a-model-family.md",
    ROOT / "docs/how-to/attention-views.md",
    ROOT / "docs/how-to/captum-workflows.md",
    ROOT / "docs/how-to/pictures.md",
    ROOT / "docs/how-to/compare_with_gradcam.md",
    ROOT / "docs/how-to/capture-attention.md",
    ROOT / "docs/how-to/other-models.md",
]
# A code block, with the HTML comment on the line before it.
_BLOCK = re.compile(r"(?:^<!--(?P<comment>[^\n]*)-->\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"\s*not run\b(?::\s*(?P<reason>\S.*))?")


def python_blocks(page: str) -> list[tuple[int, str]]:
    """Line number and code of every block that is to be run, in order."""
    blocks = []
    for block in _BLOCK.finditer(page):
        line = page.count("\n", 0, block.start("code")) + 1
        mark = _NOT_RUN.match(block["comment"] or "")
        if mark and not mark["reason"]:
            raise ValueError(f"The code at line {line} is not run for no reason: write <!-- not run: reason -->.")
        if not mark:
            blocks.append((line, block["code"]))
    return blocks


@pytest.fixture
def one_thread():
    """Small models run faster on one thread, by far on a machine whose cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}

    for line, code in python_blocks(page.read_text(encoding="utf-8")):
        # Blank lines in front make a traceback name the line of the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


def test_blocks_of_a_page_are_found_with_their_lines():
    page = "# Title\n\n```python\nx = 1\n```\n\n```text\ny\n```\n<!-- a remark -->\n```python\nx += 1\n```\n"

    assert python_blocks(page) == [(4, "x = 1\n"), (12, "x += 1\n")]


def test_a_block_that_gives_its_reason_is_left_out():
    page = "<!-- not run: downloads weights -->\n```python\nx = 1\n```\n"

    assert python_blocks(page) == []


@pytest.mark.parametrize("mark", ["<!-- not run -->", "<!-- not run: -->"])
def test_a_block_that_is_left_out_for_no_reason_is_refused(mark):
    with pytest.raises(ValueError, match="line 3 is not run for no reason"):
        python_blocks(f"{mark}\n```python\nx = 1\n```\n")
