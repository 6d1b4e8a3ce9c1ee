"""A comparison as one HTML file: no scripts, no links, nothing to load."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from attrib_plugin.errors import MissingDependencyError
from attrib_plugin.runner.comparison import Comparison, shown
from attrib_plugin.visualization import AGAINST, FOR, SHARE, SIZE


def write_comparison(path: str | Path, comparison: Comparison, *, title: str = "", command: str = "") -> Path:
    """Write the page of a comparison: figures, table, notes.

    Args:
        path: The HTML file.
        comparison: What it shows.
        title: Its title; by default that of the comparison.
        command: The command that makes it again.

    Returns:
        The path.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("jinja2", "cli") from error
    loader = PackageLoader("attrib_plugin.runner")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["shown"] = shown
    page = environment.get_template("comparison.html").render(
        title=title or comparison.title,
        comparison=comparison,
        rows=list(zip(comparison.results, comparison.table(), strict=True)),
        score_names=list(dict.fromkeys(name for result in comparison.results for name in result.scores)),
        command=command,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        color_for=FOR,
        color_against=AGAINST,
        color_share=SHARE,
        color_size=SIZE,
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path
