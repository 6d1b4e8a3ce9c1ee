"""One HTML file for explanations and comparisons: no scripts, no links, nothing to load.

A content security policy holds the browser to that: it takes one style sheet, by its hash, and pictures that are in the
file. So text that should get past the escaping could still do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrib_plugin.errors import InputError, MissingDependencyError
from attrib_plugin.runner.comparison import Comparison, shown
from attrib_plugin.runner.explain_many import library_versions
from attrib_plugin.runner.explanation import Explanation, figure_url, in_words
from attrib_plugin.runner.explanations import Explanations, as_explanations, grouped, input_figure, text_group
from attrib_plugin.visualization import RowScale, SheetStyles, image_figure, shaded_tables
from attrib_plugin.visualization.page import content_hash, writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 130


@dataclass(frozen=True, eq=False)
class Section:
    """Explanations that are shown together, mostly of one input.

    Attributes:
        title: Heading.
        explanations: At least one; those of an image share a figure, those of a text a table.
        intro: A sentence about the input.
        scale: For texts, what shares one colour scale: ``"row"``, nothing; ``"name"``, rows of one name; ``"all"``.
    """

    title: str
    explanations: Sequence[Explanation]
    intro: str = ""
    scale: RowScale = "row"

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
        return "" if figure is None else figure_url(figure, dpi=_DPI)


Part = Section | Explanation | Sequence[Explanation] | Comparison


def write_report(path: str | Path, parts: Sequence[Part], *, title: str, command: str = "") -> Path:
    """Write a report: input, prediction, maps, scores, settings, versions, and how to make it again.

    It is legible on light and dark screens, in narrow and wide windows, and printed.

    Args:
        path: The HTML file.
        parts: What it holds, in order: explanations, sequences of them, sections with a title, comparisons.
        title: Its title.
        command: The command that makes it again; without one, the calls in Python are shown.

    Returns:
        The path.

    Raises:
        InputError: If there is no part, a section holds no explanation, or a part is something else.
        MissingDependencyError: If jinja2 is not installed.
    """
    path = Path(path)
    path.write_text(report_html(parts, title=title, command=command), encoding="utf-8")
    return path


def report_html(parts: Sequence[Part], *, title: str, command: str = "") -> str:
    """The report of :func:`write_report` as text.

    Args:
        parts: As in :func:`write_report`.
        title: As in :func:`write_report`.
        command: As in :func:`write_report`.

    Returns:
        A whole HTML document.

    Raises:
        InputError: As in :func:`write_report`.
        MissingDependencyError: As in :func:`write_report`.
    """
    if not parts:
        raise InputError("Expected at least one explanation or comparison to report, found none.")
    if empty := [part.title for part in parts if isinstance(part, Section) and not part.explanations]:
        raise InputError(f"A section needs at least one explanation; {empty[0]!r} has none.")
    template, styles = _templates(), SheetStyles()
    body = "\n".join(
        _comparison(part, template, styles) if isinstance(part, Comparison) else _section(part, template, styles)
        for part in parts
    )
    style = files("attrib_plugin.runner").joinpath("templates", "page.css").read_text(encoding="utf-8") + styles.sheet()
    return writable(
        template("page.html")(
            title=title,
            style=style,
            style_hash=content_hash(style),
            body=body,
            command=command,
            code="" if command else "\n".join(_code(parts)),
            versions=library_versions(),
            written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def _templates() -> Callable[[str], Callable[..., str]]:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("jinja2", "cli") from error
    loader = PackageLoader("attrib_plugin.runner")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown_value"] = shown
    return lambda name: environment.get_template(name).render


def _section(part: Any, template: Callable[[str], Callable[..., str]], styles: SheetStyles) -> str:
    if isinstance(part, Section):
        explanations, title, intro, scale = list(part.explanations), part.title, part.intro, part.scale
    else:
        explanations, intro = as_explanations(part), ""
        scale = part.scale if isinstance(part, Explanations) else "row"
        title = explanations[0].title if len(explanations) == 1 else f"{len(explanations)} explanations"
    groups = grouped(explanations)
    tables = _text_tables(groups, scale, styles)
    return template("section.html")(
        title=title,
        intro=intro,
        groups=groups,
        shown=lambda group: tables[id(group)] if group[0].pixels is None else _picture(group, styles),
        score_names=lambda group: list(dict.fromkeys(name for one in group for name in one.scores)),
    )


def _text_tables(groups: Iterable[list[Explanation]], scale: RowScale, styles: SheetStyles) -> Mapping[int, str]:
    texts = [group for group in groups if group[0].pixels is None]
    # Each under its own prediction, and all on the scale that they share.
    tables = (
        shaded_tables([text_group(group, titled=False) for group in texts], scale=scale, styles=styles) if texts else []
    )
    return {id(group): table for group, table in zip(texts, tables, strict=True)}


def _picture(group: Sequence[Explanation], styles: SheetStyles) -> str:
    url = figure_url(input_figure(group), dpi=_DPI)
    names = "; ".join(f"{one.title}: {one.largest()}" for one in group)
    return f'<img alt="{escape(names)}" src="{url}" {styles("", name="figure")}>'


def _comparison(part: Comparison, template: Callable[[str], Callable[..., str]], styles: SheetStyles) -> str:
    return template("comparison.html")(
        comparison=part,
        maps=part.maps_html(styles, dpi=_DPI),
        in_words=in_words,
        rows=list(zip(part.results, part.table(), strict=True)),
        score_names=list(dict.fromkeys(name for result in part.results for name in result.scores)),
    )


def _code(parts: Iterable[Part]) -> Iterable[str]:
    for part in parts:
        if isinstance(part, Comparison):
            yield part.code
        elif isinstance(part, Section):
            yield from (one.code for one in part.explanations)
        else:
            yield from (one.code for one in as_explanations(part))
