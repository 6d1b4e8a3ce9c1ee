"""Several explanations that are shown together: methods and classes side by side, texts and images below each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from attrib_plugin.errors import InputError
from attrib_plugin.runner.explanation import CARD, Explanation, as_json, figure_url
from attrib_plugin.visualization import (
    Panel,
    RowScale,
    ShadedGroup,
    TextRow,
    image_figure,
    image_multiples,
    shaded_table,
    text_comparison,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FILLED = 0.7


class Explanations(Sequence[Explanation]):
    """Any explanations, together: a sequence that displays itself in notebooks.

    Those of one text or image stand side by side, whatever methods and classes they have.

    Args:
        explanations: The explanations, such as ``explain_many`` yields them.
        scale: For texts, what shares one colour scale: ``"row"``, nothing; ``"name"``, rows of one method; ``"all"``.

    Raises:
        InputError: If there is none.
    """

    def __init__(self, explanations: Iterable[Explanation], *, scale: RowScale = "row") -> None:
        self._explanations = tuple(explanations)
        self.scale = scale
        if not self._explanations:
            raise InputError("Expected at least one explanation to show, found none.")

    @overload
    def __getitem__(self, index: int) -> Explanation: ...

    @overload
    def __getitem__(self, index: slice) -> Explanations: ...

    def __getitem__(self, index: int | slice) -> Explanation | Explanations:
        """One explanation by number, or several."""
        if isinstance(index, slice):
            return Explanations(self._explanations[index], scale=self.scale)
        return self._explanations[index]

    def __len__(self) -> int:
        return len(self._explanations)

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self._explanations)

    def by_input(self) -> list[list[Explanation]]:
        """The explanations of each text or image.

        Returns:
            One list an input, inputs and explanations in order.
        """
        return grouped(self._explanations)

    def figures(self) -> list[Figure]:
        """One figure for each text or image with all its explanations.

        Returns:
            Matplotlib figures, in no global state.
        """
        return [input_figure(group) for group in self.by_input()]

    def html(self) -> str:
        """All explanations as a piece of HTML without scripts or links; everything in it is escaped.

        Returns:
            HTML.
        """
        texts = [group for group in self.by_input() if group[0].modality == "text"]
        parts = [shaded_table([text_group(group) for group in texts], scale=self.scale)] if texts else []
        for group in self.by_input():
            if group[0].modality == "image":
                said = f"{group[0].source or 'image'} · predicted: {group[0].predicted}"
                names = "; ".join(one.title for one in group)
                picture = f'<img alt="{escape(names)}" src="{figure_url(input_figure(group))}" style="max-width:100%">'
                parts.append(f"<p style='margin:0.9em 0 0.2em;font-weight:600'>{escape(said)}</p>{picture}")
        return f'<div style="{CARD}">{"".join(parts)}</div>'

    def save(self, path: str | Path, *, title: str = "", command: str = "") -> Path:
        """Write all explanations to one file, in the format that its name says.

        Args:
            path: Ends in ``.html`` (a report), ``.json`` (a list), or, for one input, ``.png``, ``.svg`` or ``.pdf``.
            title: Title of the report.
            command: The command that makes it again; by default the calls in Python.

        Returns:
            The path.

        Raises:
            InputError: If the ending is none of these, or a picture of several inputs is asked for.
        """
        path = Path(path)
        if path.suffix == ".html":
            from attrib_plugin.runner.report import write_report

            return write_report(path, [self], title=title or f"{len(self)} explanations", command=command)
        if path.suffix == ".json":
            path.write_text(as_json([one.as_dict() for one in self]), encoding="utf-8")
        elif path.suffix in (".png", ".svg", ".pdf"):
            figures = self.figures()
            if len(figures) > 1:
                raise InputError(
                    f"{path.name!r} holds one picture, and there are {len(figures)} inputs: use figures()."
                )
            figures[0].savefig(path, dpi=150)
        else:
            raise InputError(f"Expected a name that ends in .html, .json, .png, .svg or .pdf, found {path.name!r}.")
        return path

    def _repr_html_(self) -> str:
        return self.html()


def grouped(explanations: Iterable[Explanation]) -> list[list[Explanation]]:
    """Explanations of one input together.

    Args:
        explanations: The explanations.

    Returns:
        One list for each text, cut into the same words, or image with the same pixels.
    """
    groups: list[list[Explanation]] = []
    for one in explanations:
        home = next((group for group in groups if _same_input(group[0], one)), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    return groups


def text_group(group: Sequence[Explanation], *, titled: bool = True) -> ShadedGroup:
    """Explanations of one text as rows of a table.

    Args:
        group: Explanations of one text.
        titled: Whether the prediction stands above them.

    Returns:
        The rows under the prediction.
    """
    return ShadedGroup([one.row() for one in group], f"predicted: {group[0].predicted}" if titled else "")


def input_figure(group: Sequence[Explanation]) -> Figure:
    """All explanations of one text or image as one figure.

    Several methods for several classes of an image stand in rows and columns.

    Args:
        group: At least one explanation; all of one input.

    Returns:
        A matplotlib figure, in no global state.
    """
    first = group[0]
    if len(group) == 1:
        return first.figure()
    if first.pixels is None:
        rows = [TextRow(one.title, one.word_values(), one.tone) for one in group]
        return text_comparison([word.text for word in first.words], rows, title=f"predicted: {first.predicted}")
    title = f"predicted: {first.predictions[0].label}"
    table = _by_method_and_class(group)
    if table is None:
        return image_figure(first.pixels, [one.panel() for one in group], title=title)
    methods, classes, panels = table
    return image_multiples(first.pixels, panels, rows=methods, columns=classes, title=title)


def _by_method_and_class(
    group: Sequence[Explanation],
) -> tuple[list[str], list[str], list[list[Panel | None]]] | None:
    """Methods down, classes across; ``None`` if that would not be a table or would lose a map."""
    methods, classes = (list(dict.fromkeys(names)) for names in zip(*(_place(one) for one in group), strict=True))
    is_table = len(methods) > 1 and len(classes) > 1 and len({_place(one) for one in group}) == len(group)
    # A table with many empty places is harder to read than a row.
    if not is_table or len(group) < _FILLED * len(methods) * len(classes):
        return None
    panels: list[list[Panel | None]] = [[None] * len(classes) for _ in methods]
    for one in group:
        method, wanted = _place(one)
        panels[methods.index(method)][classes.index(wanted)] = one.panel()
    return methods, classes, panels


def _place(one: Explanation) -> tuple[str, str]:
    # What attends to no class has a column of its own.
    settings = one.described_settings.removesuffix(", ")
    method = f"{one.method} ({settings})" if settings else one.method
    contrast = f" rather than {one.against.label}" if one.against else ""
    return method, "the same for every class" if one.tone == "share" else f"{one.target.label}{contrast}"


def _same_input(one: Explanation, other: Explanation) -> bool:
    if one.pixels is None or other.pixels is None:
        return one.pixels is other.pixels and (one.text, one.words) == (other.text, other.words)
    return one.source == other.source and np.array_equal(one.pixels, other.pixels)


def as_explanations(shown: Any) -> list[Explanation]:
    """One explanation or several as a list.

    Args:
        shown: An explanation or a sequence of them.

    Returns:
        The list.

    Raises:
        InputError: If it is something else.
    """
    found = [shown] if isinstance(shown, Explanation) else list(shown) if isinstance(shown, Sequence) else []
    if not found or not all(isinstance(one, Explanation) for one in found):
        raise InputError(f"Expected an explanation, several, a section or a comparison, found {type(shown).__name__}.")
    return found
