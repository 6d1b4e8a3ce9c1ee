"""The documentation's pages of executed notebooks."""

import base64
import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "docs" / "notebook_pages.py"


@pytest.fixture(scope="module")
def notebook_pages():
    spec = importlib.util.spec_from_file_location("notebook_pages", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_cell(source, *outputs):
    return {"cell_type": "code", "source": [source], "outputs": list(outputs)}


def display(kind, content):
    return {"output_type": "display_data", "data": {kind: content}}


def test_text_code_and_printed_output_stand_in_order(notebook_pages):
    printed = {"output_type": "stream", "name": "stdout", "text": ["Мама\n", "мыла\n"]}
    cells = [{"cell_type": "markdown", "source": ["# Title\n", "text"]}, code_cell("print(1)", printed)]

    page, pictures = notebook_pages.page_of({"cells": cells}, "lecture")

    assert page == "# Title\ntext\n\n~~~~python\nprint(1)\n~~~~\n\n~~~~text\nМама\nмыла\n~~~~\n"
    assert pictures == {}


def test_pictures_are_numbered_and_named_by_the_code_that_draws_them(notebook_pages):
    png = base64.b64encode(b"picture").decode()
    cells = [code_cell("figure[0]", display("image/png", png), display("image/png", png))]

    page, pictures = notebook_pages.page_of({"cells": cells}, "lecture")

    assert pictures == {"lecture-0.png": b"picture", "lecture-1.png": b"picture"}
    assert "![What figure(0) draws](lecture-0.png)" in page


def test_views_are_passed_on_and_other_values_are_text(notebook_pages):
    cells = [code_cell("shown", display("text/html", "<iframe></iframe>")), code_cell("1", display("text/plain", "1"))]

    page, _ = notebook_pages.page_of({"cells": cells}, "lecture")

    assert "~~~~{raw} html\n<iframe></iframe>\n~~~~" in page
    assert "~~~~text\n1\n~~~~" in page
