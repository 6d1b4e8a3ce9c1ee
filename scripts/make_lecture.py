"""Run the lecture and write it as notebooks with their outputs: ``examples/lecture_walkthrough_*.ipynb``.

The scripts ``examples/lecture_walkthrough_*.py`` are what is edited; the notebooks are made from them, with the model
that needs no hub. About a minute on one core:

    make lecture
"""

import base64
import io
import os
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SECONDS_A_CELL = 600
# Legible, and small enough for a repository.
DOTS_PER_INCH = "--InlineBackend.print_figure_kwargs={'dpi': 80, 'bbox_inches': 'tight'}"
# No hub for the kernel; and tqdm would write a warning about widgets into the notebook.
KERNEL_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore:IProgress not found"}


def run(script: Path) -> Path:
    """Execute a script as a notebook, offline, and write the notebook beside it."""
    notebook = jupytext.read(script)
    resources = {"metadata": {"path": str(EXAMPLES.parent)}}  # what the lecture writes goes to demo-output there
    NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        record_timing=False,
        resources=resources,
        extra_arguments=[DOTS_PER_INCH],
        coalesce_streams=True,
    ).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # random names would make every run a change
        for output in cell.get("outputs", []):
            _slim(output.get("data", {}))
    notebook.metadata["language_info"] = {"name": "python"}
    path = script.with_suffix(".ipynb")
    jupytext.write(notebook, path)
    return path


def _slim(data: dict[str, str]) -> None:
    """Store pictures without transparency; drop the address in memory that figures and views describe themselves by."""
    if "image/png" in data or "text/html" in data:
        data.pop("text/plain", None)
    if "image/png" in data:
        stored = io.BytesIO()
        Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB").save(stored, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(stored.getvalue()).decode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as no_models:
        # An empty cache, or a model that was fetched earlier would be taken.
        os.environ.update(KERNEL_ENVIRONMENT, HF_HOME=no_models)
        for script in sorted(EXAMPLES.glob("lecture_walkthrough_*.py")):
            made = run(script)
            print(f"{made.name}: {made.stat().st_size / 1e6:.2f} MB")
