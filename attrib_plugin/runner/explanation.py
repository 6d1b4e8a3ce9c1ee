"""The record of one explanation, which notebook, command line, report and demo show in the same way."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.postprocessing import TextToken, Word
from attrib_plugin.visualization import (
    Panel,
    ShadedGroup,
    ShadedRow,
    Styles,
    Tone,
    image_figure,
    shaded_table,
    shaded_text,
    word_figure,
)
from attrib_plugin.visualization.styles import INLINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CARD = "font-family:sans-serif;color:#1a1a1a;background:#ffffff;padding:0.5em"
"""Look of a piece of HTML in a notebook, whose own colours may be dark."""


@dataclass(frozen=True)
class Prediction:
    """One class and how probable the model finds it.

    Attributes:
        index: Index of the class.
        label: Its name.
        probability: From 0 to 1; the plain output for a model with one output.
    """

    index: int
    label: str
    probability: float


def in_words(predictions: Sequence[Prediction], most: int = 3) -> str:
    """The most probable classes, in a line.

    Args:
        predictions: Classes, most probable first.
        most: How many are named.

    Returns:
        Labels with probabilities; the plain output of a model that has only one.
    """
    if len(predictions) == 1:
        return f"{predictions[0].label} {predictions[0].probability:.4g}"
    return ", ".join(f"{one.label} {one.probability:.1%}" for one in predictions[:most])


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one prediction rests on, according to one method.

    Displays itself in notebooks. Values are in the method's own units.

    Attributes:
        method: Name of the method.
        settings: Its options.
        target: What is explained.
        against: What it is contrasted with, if anything.
        predictions: Classes, most probable first.
        relevance: One value a token (T,), or a patch (rows,columns).
        tone: What the values mean: evidence ``"for"`` or ``"against"`` the target, ``"signed"`` (for minus against),
            the ``"size"`` of an influence in either direction, or ``"share"`` of attention, which does not depend on
            the target.
        text: The text; empty for images.
        tokens: Tokens of the text, special ones included.
        words: Words of the text.
        word_relevance: One value a word (W,), the sum over its tokens; special tokens are apart.
        pixels: What the model saw of an image, (height,width,3) between 0 and 1.
        seconds: Time of the attribution.
        versions: Versions of the libraries.
        source: Name of the image's file, if it came from one; empty otherwise.
        scores: Scores of the map by name, if somebody computed them: ``dataclasses.replace(one, scores=...)``.
    """

    method: str
    settings: Mapping[str, Any]
    target: Prediction
    against: Prediction | None
    predictions: tuple[Prediction, ...]
    relevance: Tensor
    tone: Tone
    text: str = ""
    tokens: tuple[TextToken, ...] = ()
    words: tuple[Word, ...] = ()
    word_relevance: Tensor | None = None
    pixels: np.ndarray[Any, Any] | None = None
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """``"text"`` or ``"image"``."""
        return "text" if self.pixels is None else "image"

    @property
    def title(self) -> str:
        """The method and what it explains, in a line."""
        if self.tone == "share":
            return f"{self.method} (the same for every class)"
        meanings = {
            "for": "evidence for",
            "against": "evidence against",
            "signed": "for and against",
            "size": "influence on",
        }
        meaning = meanings[self.tone]
        contrast = f" rather than {self.against.label}" if self.against else ""
        return f"{self.method}, {meaning} {self.target.label}{contrast}"

    @property
    def special_relevance(self) -> dict[str, float]:
        """Relevance of the special tokens, which belong to no word."""
        values = self.relevance.tolist() if self.modality == "text" else []
        return {
            f"{token.piece} at {index}": values[index] for index, token in enumerate(self.tokens) if token.is_special
        }

    @property
    def described_settings(self) -> str:
        """The options that were given, in a line that ends in a comma; empty without any."""
        return "".join(f"{name}={value!r}, " for name, value in self.settings.items())

    def panel(self) -> Panel:
        """The patch map of an image, for a figure of several."""
        return Panel(self.title, self.relevance.numpy(), self.tone)

    def figure(self) -> Figure:
        """The explanation as a figure: words with bars, or the image with its map.

        Returns:
            A matplotlib figure, in no global state.
        """
        if self.pixels is not None:
            return image_figure(self.pixels, [self.panel()], title=f"predicted: {self.predictions[0].label}")
        words = [word.text for word in self.words]
        return word_figure(words, self.word_values(), title=self.title, tone=self.tone)

    @property
    def code(self) -> str:
        """The call that makes this explanation again, as a line of Python."""
        what = repr(self.text) if self.modality == "text" else repr(self.source) if self.source else "image"
        reader = "tokenizer=tokenizer" if self.modality == "text" else "processor=processor"
        target = "" if self.tone == "share" else f", target={self.target.label!r}"
        against = f", against={self.against.label!r}" if self.against else ""
        settings = "".join(
            f", {name}={getattr(value, '__name__', repr(value))}" for name, value in self.settings.items()
        )
        return f"explain(model, {what}, {reader}, method={self.method.replace(' ', '')}{target}{against}{settings})"

    def html(self) -> str:
        """The explanation as a piece of HTML without scripts or links; everything in it is escaped.

        Returns:
            HTML.
        """
        head = f"<p style='margin:0 0 0.4em'><b>{escape(self.title)}</b> · predicted: {escape(self.predicted)}</p>"
        shown = shaded_table([ShadedGroup([self.row("")])]) if self.pixels is None else self.image_html()
        return f'<div style="{CARD}">{head}{shown}</div>'

    @property
    def predicted(self) -> str:
        """The three most probable classes, in a line."""
        return in_words(self.predictions)

    def row(self, name: str | None = None) -> ShadedRow:
        """The text with the relevance of its words, for a table of several.

        Args:
            name: Name of the row; ``None`` is the title.

        Returns:
            The row; special tokens are in its note.
        """
        special = ", ".join(f"{piece}: {value:.3g}" for piece, value in self.special_relevance.items())
        spans = tuple((word.start, word.end) for word in self.words)
        return ShadedRow(
            self.title if name is None else name, self.text, spans, self.word_values().tolist(), self.tone, note=special
        )

    def image_html(self, styles: Styles = INLINE) -> str:
        """The figure of an image as an element of HTML.

        Args:
            styles: Where its look goes.

        Returns:
            HTML, escaped, with the place of the largest value in words.
        """
        look = styles("max-width:100%;height:auto", name="figure")
        return f'<img alt="{escape(self.title)}; {self.largest()}" src="{self.data_url()}" {look}>'

    def shaded(self) -> str:
        """The words of a text shaded by relevance, with the special tokens below.

        Returns:
            HTML, escaped.
        """
        row = self.row()
        below = f'<p style="margin:0.3em 0 0;font-size:0.8em;color:#555">{escape(row.note)}</p>' if row.note else ""
        return shaded_text(row.text, row.spans, row.values, tone=row.tone) + below

    def data_url(self) -> str:
        """The figure as a PNG inside a URL.

        Returns:
            A ``data:`` URL.
        """
        return figure_url(self.figure())

    def as_dict(self) -> dict[str, Any]:
        """Everything but pixels, as plain Python values.

        Returns:
            A dictionary that ``json`` takes.
        """
        return {
            "modality": self.modality,
            "method": self.method,
            "settings": {name: repr(value) if callable(value) else value for name, value in self.settings.items()},
            "target": vars(self.target),
            "against": vars(self.against) if self.against else None,
            "predictions": [vars(prediction) for prediction in self.predictions],
            "relevance": self.relevance.tolist(),
            "tone": self.tone,
            "text": self.text,
            "tokens": [vars(token) for token in self.tokens],
            "words": [
                {
                    "text": word.text,
                    "start": word.start,
                    "end": word.end,
                    "tokens": list(word.tokens),
                    "relevance": value,
                }
                for word, value in zip(self.words, self.word_values().tolist(), strict=True)
            ],
            "seconds": self.seconds,
            "versions": dict(self.versions),
            "source": self.source,
            "scores": dict(self.scores),
        }

    def save(self, path: str | Path) -> Path:
        """Write the explanation to a file, in the format that its name says.

        Args:
            path: Ends in ``.html`` (a report in one file), ``.json``, ``.npz``, ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The path.

        Raises:
            InputError: If the ending is none of these.
        """
        path = Path(path)
        if path.suffix in (".png", ".svg", ".pdf"):
            self.figure().savefig(path, dpi=150)
        elif path.suffix == ".html":
            from attrib_plugin.runner.report import write_report

            write_report(path, [self], title=self.title)
        elif path.suffix == ".json":
            path.write_text(as_json(self.as_dict()), encoding="utf-8")
        elif path.suffix == ".npz":
            np.savez_compressed(path, relevance=self.relevance.numpy(), record=as_json(self.as_dict()))
        else:
            raise InputError(
                f"Expected a name that ends in .html, .json, .npz, .png, .svg or .pdf, found {path.name!r}."
            )
        return path

    def _repr_html_(self) -> str:
        return self.html()

    def largest(self) -> str:
        """Where the map of an image, or of the words of a text, is largest, for readers who do not see it.

        Returns:
            A few words.
        """
        if self.pixels is None:
            values = np.abs(np.nan_to_num(self.word_values()))
            return f"largest at {self.words[int(values.argmax())].text!r}" if values.any() else "zero everywhere"
        return self._largest_patch()

    def _largest_patch(self) -> str:
        values = self.relevance.abs().nan_to_num()
        row, column = divmod(int(values.argmax()), values.shape[1])
        rows, columns = values.shape
        place = f"largest in row {row + 1} of {rows}, column {column + 1} of {columns}"
        return place if bool(values.any()) else "zero everywhere"

    def word_values(self) -> np.ndarray[Any, Any]:
        """The relevance of the words.

        Returns:
            One value a word; empty for images.
        """
        return np.empty(0) if self.word_relevance is None else self.word_relevance.numpy()


def as_json(record: Any) -> str:
    """Plain values as JSON, which has no word for what is not a number.

    Args:
        record: Dictionaries, lists, tuples, texts and numbers.

    Returns:
        JSON text; numbers that are not finite are null.
    """
    return json.dumps(_or_null(record), ensure_ascii=False, indent=2, allow_nan=False)


def _or_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _or_null(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_or_null(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figure_url(figure: Figure, *, dpi: int = 110) -> str:
    """A figure as a PNG inside a URL.

    Args:
        figure: The figure.
        dpi: Dots an inch.

    Returns:
        A ``data:`` URL.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
