"""The record of one explanation, which notebook, command line, report and demo show in the same way."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.postprocessing import TextToken, Word
from attrib_plugin.visualization import Panel, Tone, image_figure, shaded_text, word_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
            or ``"share"`` of attention, which does not depend on the target.
        text: The text; empty for images.
        tokens: Tokens of the text, special ones included.
        words: Words of the text.
        word_relevance: One value a word (W,), the sum over its tokens; special tokens are apart.
        pixels: What the model saw of an image, (height,width,3) between 0 and 1.
        seconds: Time of the attribution.
        versions: Versions of the libraries.
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

    @property
    def modality(self) -> str:
        """``"text"`` or ``"image"``."""
        return "text" if self.pixels is None else "image"

    @property
    def title(self) -> str:
        """The method and what it explains, in a line."""
        if self.tone == "share":
            return f"{self.method} (the same for every class)"
        meaning = {"for": "evidence for", "against": "evidence against", "signed": "for and against"}[self.tone]
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
        values = np.empty(0) if self.word_relevance is None else self.word_relevance.numpy()
        return word_figure([word.text for word in self.words], values, title=self.title, tone=self.tone)

    def html(self) -> str:
        """The explanation as a piece of HTML without scripts or links; everything in it is escaped.

        Returns:
            HTML.
        """
        shown = self.shaded() if self.pixels is None else f'<img alt="{escape(self.title)}" src="{self.data_url()}">'
        predicted = ", ".join(f"{escape(one.label)} {one.probability:.1%}" for one in self.predictions[:3])
        return (
            '<div style="font-family:sans-serif;color:#1a1a1a;background:#ffffff;padding:0.5em">'
            f"<p style='margin:0 0 0.4em'><b>{escape(self.title)}</b> · predicted: {predicted}</p>{shown}</div>"
        )

    def shaded(self) -> str:
        """The words of a text shaded by relevance, with the special tokens below.

        Returns:
            HTML, escaped.
        """
        special = ", ".join(f"{escape(name)}: {value:.3g}" for name, value in self.special_relevance.items())
        shaded = shaded_text(
            self.text, [(word.start, word.end) for word in self.words], self._word_values(), tone=self.tone
        )
        below = f'<p style="margin:0.3em 0 0;font-size:0.8em;color:#555">{special}</p>' if special else ""
        return shaded + below

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
                for word, value in zip(self.words, self._word_values(), strict=True)
            ],
            "seconds": self.seconds,
            "versions": dict(self.versions),
        }

    def save(self, path: str | Path) -> Path:
        """Write the explanation to a file, in the format that its name says.

        Args:
            path: Ends in ``.html``, ``.json``, ``.npz``, ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The path.

        Raises:
            InputError: If the ending is none of these.
        """
        path = Path(path)
        if path.suffix in (".png", ".svg", ".pdf"):
            self.figure().savefig(path, dpi=150)
        elif path.suffix == ".html":
            page = f'<!doctype html><meta charset="utf-8"><title>{escape(self.title)}</title>{self.html()}'
            path.write_text(page, encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(self.as_dict(), ensure_ascii=False, indent=2), encoding="utf-8")
        elif path.suffix == ".npz":
            np.savez_compressed(path, relevance=self.relevance.numpy(), record=json.dumps(self.as_dict()))
        else:
            raise InputError(
                f"Expected a name that ends in .html, .json, .npz, .png, .svg or .pdf, found {path.name!r}."
            )
        return path

    def _repr_html_(self) -> str:
        return self.html()

    def _word_values(self) -> list[float]:
        return [] if self.word_relevance is None else self.word_relevance.tolist()


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
