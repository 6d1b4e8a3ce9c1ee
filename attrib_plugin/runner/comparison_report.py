"""A comparison as one HTML file: no scripts, no links, nothing to load."""

from __future__ import annotations

from pathlib import Path

from attrib_plugin.runner.comparison import Comparison
from attrib_plugin.runner.report import write_report


def write_comparison(path: str | Path, comparison: Comparison, *, title: str = "", command: str = "") -> Path:
    """Write the page of a comparison: figures, table, notes. :func:`write_report` takes several.

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
    return write_report(path, [comparison], title=title or comparison.title, command=command)
