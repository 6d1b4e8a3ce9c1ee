"""Turn the executed notebooks of the lecture into pages: text, code, printed output, pictures and interactive views.

Only the standard library is used. The pages are written into ``tutorials/generated`` when a build begins.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent
NOTEBOOKS = {
    "lecture-ru": ROOT.parent / "examples" / "lecture_walkthrough_ru.ipynb",
    "lecture-en": ROOT.parent / "examples" / "lecture_walkthrough_en.ipynb",
}
GENERATED = ROOT / "tutorials" / "generated"


def page_of(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Convert a notebook.

    Args:
        notebook: Its JSON.
        name: How the names of its pictures begin.

    Returns:
        The page in MyST Markdown, and the content of its pictures by file name.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(_fenced("python", source))
        for output in cell["outputs"]:
            parts.append(_shown(output, f"{name}-{len(pictures)}.png", source, pictures))
    return "\n\n".join(parts) + "\n", pictures


def _shown(output: dict[str, Any], picture: str, source: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return _fenced("text", "".join(output["text"]).rstrip("\n"))
    data = output["data"]
    if "image/png" in data:
        pictures[picture] = base64.b64decode("".join(data["image/png"]))
        return f"![What {source.splitlines()[-1].strip().replace('[', '(').replace(']', ')')} draws]({picture})"
    if "text/html" in data:
        return _fenced("{raw} html", "".join(data["text/html"]))
    return _fenced("text", "".join(data["text/plain"]))


def _fenced(kind: str, content: str) -> str:
    # Tildes, because texts of the notebook may hold backticks; the tests of pages run what is fenced with backticks.
    return f"~~~~{kind}\n{content}\n~~~~"


def write_pages(app: Sphinx) -> None:
    """Write the page of every notebook."""
    GENERATED.mkdir(parents=True, exist_ok=True)
    for name, path in NOTEBOOKS.items():
        page, pictures = page_of(json.loads(path.read_text(encoding="utf-8")), name)
        (GENERATED / f"{name}.md").write_text(page, encoding="utf-8")
        for picture, content in pictures.items():
            (GENERATED / picture).write_bytes(content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before any is read."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
