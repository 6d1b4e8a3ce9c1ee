"""The record of a comparison, which notebook, command line and report show in the same way."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.postprocessing import TextToken, Word, merge_words
from attrib_plugin.runner.explanation import CARD, Prediction, as_json, figure_url, in_words
from attrib_plugin.visualization import (
    ImageRow,
    Panel,
    ShadedGroup,
    ShadedRow,
    Styles,
    TextRow,
    Tone,
    image_comparison,
    shaded_table,
    shaded_text,
    text_comparison,
)
from attrib_plugin.visualization.styles import INLINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4
"""Largest number of samples in a figure."""


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What one method gave and what it cost.

    Attributes:
        label: Name of the method in this comparison.
        source: ``"attrib_plugin"``, ``"captum"`` or ``"function"``.
        error: Why there is no map; empty if there is one.
        tone: What the values mean.
        relevance: One value a token (B,T) or patch (B,1,rows,columns); ``None`` after an error.
        full: One value a token (B,T) or pixel (B,H,W): the method's own pixels where it has them, else each patch
            copied to its pixels.
        seconds: Time by the clock.
        cpu_seconds: Time of the processor, all threads together.
        forward_calls: How often the model was called.
        forward_samples: How many samples it was given in all.
        backward_calls: How often a gradient came down through its output.
        peak_memory: Most bytes that tensors made by the method took at a time; ``None`` if not measured.
        scores: Scores of the map by name, one a sample or one for all.
        notes: Warnings, and scores that failed.
    """

    label: str
    source: str
    error: str = ""
    tone: Tone = "signed"
    relevance: Tensor | None = None
    full: Tensor | None = None
    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    forward_calls: int = 0
    forward_samples: int = 0
    backward_calls: int = 0
    peak_memory: int | None = None
    scores: Mapping[str, list[float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """The line of the table: units are in the names, scores are means over the samples."""
        cost: dict[str, Any] = {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "forward_calls": self.forward_calls,
            "forward_samples": self.forward_samples,
            "backward_calls": self.backward_calls,
            "peak_memory_mib": None if self.peak_memory is None else self.peak_memory / 2**20,
        }
        scores = {name: float(np.mean(values)) for name, values in self.scores.items()}
        failed = dict.fromkeys(cost) if self.error else cost
        return {"method": self.label, "source": self.source, **failed, **scores, "error": self.error}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Maps of several methods for the same inputs, and what each costs. Displays itself in notebooks.

    Attributes:
        results: One a method, in the order in which they were given.
        targets: What is explained, one class a sample.
        predictions: Classes of every sample, most probable first.
        modality: ``"text"`` or ``"image"``.
        baseline: What stands for absence, in words; for methods that need it.
        tokens: Tokens of every text.
        texts: The texts, where they were given as such.
        words: Words of every text; empty if only ids were given.
        pixels: What the model saw of every image, (height,width,3) between 0 and 1.
        n_threads: Threads of torch while the times were taken.
        versions: Versions of the libraries.
    """

    results: tuple[MethodResult, ...]
    targets: tuple[Prediction, ...]
    predictions: tuple[tuple[Prediction, ...], ...]
    modality: str
    baseline: str
    tokens: tuple[tuple[TextToken, ...], ...] = ()
    texts: tuple[str, ...] = ()
    words: tuple[tuple[Word, ...], ...] = ()
    pixels: tuple[np.ndarray[Any, Any], ...] = ()
    n_threads: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, label: str) -> MethodResult:
        """The result of a method by its label."""
        for result in self.results:
            if result.label == label:
                return result
        raise KeyError(f"{label!r} is none of {[result.label for result in self.results]}.")

    @property
    def title(self) -> str:
        """What is compared, in a line."""
        explained = ", ".join(dict.fromkeys(target.label for target in self.targets[:_SHOWN]))
        return f"{len(self.results)} methods on the class {explained}"

    def table(self) -> list[dict[str, Any]]:
        """Cost and scores of every method.

        Returns:
            One row a method with the same keys; ``None`` where there is no value.
        """
        rows = [result.row() for result in self.results]
        names = list(dict.fromkeys(name for row in rows for name in row if name != "error"))
        return [{name: row.get(name) for name in (*names, "error")} for row in rows]

    def to_csv(self) -> str:
        """The table as CSV with a heading line.

        Returns:
            Text.
        """
        rows, buffer = self.table(), io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()

    def to_json(self) -> str:
        """Everything but pixels, maps included.

        Returns:
            JSON text; numbers that are not finite, such as a value or a score that is NaN, are null.
        """
        record = {
            "modality": self.modality,
            "baseline": self.baseline,
            "targets": [vars(target) for target in self.targets],
            "predictions": [[vars(one) for one in ranked[:10]] for ranked in self.predictions],
            "texts": list(self.texts),
            "tokens": [[token.piece for token in tokens] for tokens in self.tokens],
            "n_threads": self.n_threads,
            "versions": dict(self.versions),
            "methods": [
                {
                    **row,
                    "tone": result.tone,
                    "scores": dict(result.scores),
                    "notes": list(result.notes),
                    "relevance": None if result.relevance is None else result.relevance.tolist(),
                }
                for row, result in zip(self.table(), self.results, strict=True)
            ],
        }
        return as_json(record)

    def figure(self, *, full: bool = False) -> Figure:
        """All maps as small multiples; of a batch the first four samples, of texts the first.

        Args:
            full: For images: draw pixels where a method has them, instead of patches for all.

        Returns:
            A matplotlib figure, in no global state.
        """
        if self.modality == "image":
            return image_comparison([self._image_row(sample, full) for sample in range(len(self.pixels[:_SHOWN]))])
        return self.text_figure(0)

    def text_figure(self, sample: int) -> Figure:
        """All maps of one text, word by word (token by token where words are not known).

        Args:
            sample: Which text.

        Returns:
            A matplotlib figure, in no global state.
        """
        rows = [
            TextRow(one.label, np.empty(0) if one.error else self._word_values(one, sample), one.tone, one.error)
            for one in self.results
        ]
        return text_comparison(self._names(sample), rows, title=f"explained: {self.targets[sample].label}")

    @property
    def code(self) -> str:
        """The call that makes this comparison again, as a line of Python."""
        what = repr(self.texts[0]) if self.texts else "inputs"
        reader = "processor=processor" if self.modality == "image" else "tokenizer=tokenizer"
        labels = list(dict.fromkeys(target.label for target in self.targets))
        target = f", target={labels[0]!r}" if len(labels) == 1 else ""
        return f"compare(model, {what}, {[result.label for result in self.results]!r}, {reader}{target})"

    def html(self) -> str:
        """Maps and table as a piece of HTML without scripts or links; everything in it is escaped.

        Returns:
            HTML.
        """
        lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in self._cells())
        return (
            f'<div style="{CARD}"><p style="margin:0 0 0.4em"><b>{escape(self.title)}</b></p>{self.maps_html()}'
            f'<table style="border-collapse:collapse;font-size:0.9em">{lines}</table>'
            f'<p style="font-size:0.8em;color:#555">Absence is {escape(self.baseline)}. Times with {self.n_threads} '
            "thread(s); memory is that of tensors the method made.</p></div>"
        )

    def maps_html(self, styles: Styles = INLINE, *, dpi: int = 110) -> str:
        """The maps alone: texts as shaded words where they are known, else figures.

        Args:
            styles: Where colours go: into the elements, or into a style sheet.
            dpi: Dots an inch of figures.

        Returns:
            HTML, escaped.
        """
        if self.words:
            return shaded_table([self._group(sample) for sample in range(len(self.words))], styles=styles)
        look = styles("max-width:100%;height:auto", name="figure")
        return "".join(f'<img alt="{escape(self.title)}" src="{url}" {look}>' for url in self.urls(dpi=dpi))

    def urls(self, *, dpi: int = 110) -> list[str]:
        """The figures as PNG inside URLs: one for images, one a text.

        Args:
            dpi: Dots an inch.

        Returns:
            ``data:`` URLs.
        """
        if self.modality == "image":
            return [figure_url(self.figure(), dpi=dpi)]
        return [figure_url(self.text_figure(sample), dpi=dpi) for sample in range(min(len(self.targets), _SHOWN))]

    def shaded(self, result: MethodResult, sample: int) -> str:
        """A text shaded by one method.

        Args:
            result: The method's result.
            sample: Which text.

        Returns:
            HTML, escaped; empty where there is no text or no map.
        """
        if result.error or not self.words:
            return ""
        row = self._row(result, sample)
        return shaded_text(row.text, row.spans, row.values, tone=row.tone)

    def save(self, path: str | Path) -> Path:
        """Write the comparison to a file, in the format that its name says.

        Args:
            path: Ends in ``.html`` (a report in one file), ``.json``, ``.csv``, ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The path.

        Raises:
            InputError: If the ending is none of these.
        """
        path = Path(path)
        if path.suffix in (".png", ".svg", ".pdf"):
            self.figure().savefig(path, dpi=150)
        elif path.suffix == ".html":
            from attrib_plugin.runner.comparison_report import write_comparison

            write_comparison(path, self)
        elif path.suffix in (".json", ".csv"):
            path.write_text(self.to_json() if path.suffix == ".json" else self.to_csv(), encoding="utf-8")
        else:
            raise InputError(
                f"Expected a name that ends in .html, .json, .csv, .png, .svg or .pdf, found {path.name!r}."
            )
        return path

    def _repr_html_(self) -> str:
        return self.html()

    def _image_row(self, sample: int, full: bool) -> ImageRow:
        panels, failures = [], {}
        for result in self.results:
            if result.relevance is None or result.full is None:
                failures[result.label] = result.error
                continue
            values = result.full[sample] if full else result.relevance[sample, 0]
            panels.append(Panel(result.label, values.numpy(), result.tone))
        return ImageRow(self.pixels[sample], f"explained: {self.targets[sample].label}", panels, failures)

    def _group(self, sample: int) -> ShadedGroup:
        title = f"explained: {self.targets[sample].label} · predicted: {in_words(self.predictions[sample])}"
        return ShadedGroup([self._row(result, sample) for result in self.results], title)

    def _row(self, result: MethodResult, sample: int) -> ShadedRow:
        spans = tuple((word.start, word.end) for word in self.words[sample])
        values = self._word_values(result, sample).tolist()
        return ShadedRow(result.label, self.texts[sample], spans, values, result.tone, failure=result.error)

    def _names(self, sample: int) -> list[str]:
        if self.words:
            return [word.text for word in self.words[sample]]
        return [token.piece for token in self.tokens[sample]]

    def _word_values(self, result: MethodResult, sample: int) -> np.ndarray[Any, Any]:
        if result.relevance is None:
            return np.empty(0)
        values = result.relevance[sample]
        return (merge_words(values, self.words[sample]) if self.words else values).numpy()

    def _cells(self) -> list[list[str]]:
        rows = self.table()
        padding = "padding:0.15em 0.7em 0.15em 0"
        lines = [[f'<th style="text-align:left;{padding}">{escape(name)}</th>' for name in rows[0]]]
        for row in rows:
            cells = [(shown(value), isinstance(value, (int, float))) for value in row.values()]
            lines.append(
                [
                    f'<td style="text-align:{"right" if number else "left"};{padding}">{escape(text)}</td>'
                    for text, number in cells
                ]
            )
        return lines


def shown(value: Any) -> str:
    """A value of the table as people read it.

    Args:
        value: A number, a text or ``None``.

    Returns:
        Text; numbers with four digits.
    """
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
