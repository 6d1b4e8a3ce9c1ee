"""How the documentation is built: Markdown pages, and a reference from the docstrings; nothing is fetched."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import attrib_plugin
from attrib_plugin import methods, presets

sys.path.insert(0, str(Path(__file__).parent))  # for notebook_pages

project = "attrib_plugin"
author = "attrib_plugin contributors"
copyright = "attrib_plugin contributors"
version = release = attrib_plugin.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "notebook_pages",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "attrib_plugin"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"

myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath", "substitution"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Reference", "notes_style")]
python_maximum_signature_line_length = 100
nitpicky = False


def _method_table(folder: str) -> str:
    """One line a method, with links to the pages in a folder, so that a new method is listed without an edit here."""
    lines = ["| Method | Depends on the target | What it gives |", "|---|---|---|"]
    for name in (*methods.__all__, *methods.ON_TWO_SEQUENCES):
        method = getattr(methods, name)
        page = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        summary = " ".join((method.__doc__ or "").strip().split("\n\n")[0].split())
        lines.append(f"| [{name}]({folder}{page}.md) | {'yes' if method.needs_gradients else 'no'} | {summary} |")
    return "\n".join(lines)


myst_substitutions = {
    "method_table": _method_table(""),
    "method_table_from_index": _method_table("methods/"),
    "preset_table": presets().markdown(),
}


def _inline_math(self: Any, node: nodes.math) -> None:
    self.body.append(tex2mathml(node.astext()).strip())
    raise nodes.SkipNode


def _block_math(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw without a script and without a network."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
