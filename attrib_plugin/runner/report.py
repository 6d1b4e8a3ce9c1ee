"""One HTML file for a set of explanations: no scripts, no links, nothing to load."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from attrib_plugin.errors import InputError, MissingDependencyError
from attrib_plugin.runner.explain import library_versions
from attrib_plugin.runner.explanation import Explanation
from attrib_plugin.visualization import AGAINST, FOR, SHARE, image_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Section:
    """Explanations of one input, shown together.

    Attributes:
        title: Heading.
        explanations: At least one; those of an image share a figure.
        intro: A sentence about the input.
    """

    title: str
    explanations: Sequence[Explanation]
    intro: str = ""

    def image_figure(self) -> Figure | None:
        """All maps of an image side by side; ``None`` for text."""
        first = self.explanations[0]
        if first.pixels is None:
            return None
        return image_figure(first.pixels, [one.panel() for one in self.explanations])

    @property
    def figure(self) -> str:
        """The figure as a URL that holds it; empty for text."""
        figure = self.image_figure()
        if figure is None:
            return ""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_report(path: str | Path, sections: Sequence[Section], *, title: str, command: str = "") -> Path:
    """Write a report.

    Args:
        path: The HTML file.
        sections: What it holds.
        title: Its title.
        command: The command that makes it again.

    Returns:
        The path.

    Raises:
        InputError: If a section holds no explanation.
        MissingDependencyError: If jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("jinja2", "cli") from error
    if empty := [section.title for section in sections if not section.explanations]:
        raise InputError(f"A section needs at least one explanation; {empty[0]!r} has none.")
    loader = PackageLoader("attrib_plugin.runner")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.get_template("report.html").render(
        title=title,
        sections=sections,
        command=command,
        versions=library_versions(),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        color_for=FOR,
        color_against=AGAINST,
        color_share=SHARE,
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path
