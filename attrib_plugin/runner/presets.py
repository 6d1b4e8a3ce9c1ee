"""All presets of all methods in one list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from attrib_plugin import methods

_HEADINGS = ("Method", "Preset", "Source", "Options", "What is peculiar")
_WIDTHS = (24, 22, 34, 36, 56)


@dataclass(frozen=True)
class ListedPreset:
    """One preset of one method.

    Attributes:
        name: What ``from_preset`` takes.
        method: Name of the class.
        paper: The paper, short; empty if there is none.
        repository: The published implementation; empty if there is none.
        note: What is peculiar about it.
        options: Constructor arguments; all others have their defaults.
    """

    name: str
    method: str
    paper: str = ""
    repository: str = ""
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Method, name, source, options and note as text."""
        source = "; ".join(part for part in (self.repository, self.paper) if part)
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return self.method, self.name, source, options, self.note


class PresetTable(tuple[ListedPreset, ...]):
    """Presets as a tuple; ``print`` shows them as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [line for cells in (_HEADINGS, *(preset.cells for preset in self)) for line in _lines(cells)]
        return "\n".join(rows)

    def markdown(self) -> str:
        """The same table in Markdown."""
        code = (f"| {method} | `{name}` | {source} | `{options}` | {note} |" for method, name, source, options, note in
                (preset.cells for preset in self))  # fmt: skip
        return "\n".join([f"| {' | '.join(_HEADINGS)} |", "|---" * len(_HEADINGS) + "|", *code])


def presets() -> PresetTable:
    """Every preset of every method: the options with which a published implementation runs.

    Example:
        >>> print(presets())
        >>> {preset.method for preset in presets() if preset.name == "vit_explain"}

    Returns:
        The presets by method, in the order in which methods list them.
    """
    classes = {name: getattr(methods, name) for name in (*methods.__all__, *methods.ON_TWO_SEQUENCES)}
    return PresetTable(
        ListedPreset(name, method, preset.paper, preset.repository, preset.note, preset.options)
        for method, cls in classes.items()
        for name, preset in cls.presets.items()
    )


def _lines(cells: tuple[str, ...]) -> Iterator[str]:
    """The lines of one row, cells wrapped to the widths of their columns."""
    wrapped = (wrap(cell, width, break_on_hyphens=False) for cell, width in zip(cells, _WIDTHS, strict=True))
    for parts in zip_longest(*wrapped, fillvalue=""):
        yield "  ".join(part.ljust(width) for part, width in zip(parts, _WIDTHS, strict=True)).rstrip()
