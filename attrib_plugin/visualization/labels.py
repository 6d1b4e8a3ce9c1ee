"""Any text as a label of a matplotlib figure: nothing is mathematics, nothing invisible, no glyph missing.

matplotlib's own font, DejaVu Sans, knows Latin, Greek, Cyrillic, Hebrew and Arabic, but neither Chinese, Japanese and
Korean nor most emoji. Where a font that knows more is installed it is used; what no font can draw is written in words
or numbers, and the figure says so.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Outline fonts that are common on Linux, macOS and Windows; matplotlib cannot draw coloured bitmap fonts.
_FURTHER_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Thai",
    "Noto Sans Devanagari",
    "Nirmala UI",
    "Arial Unicode MS",
    "Noto Emoji",
    "Symbola",
    "Segoe UI Emoji",
)
_VISIBLE = {"\n": "↵", "\r": "↵", "\t": "⇥", "\u00a0": "␣", "\u3000": "␣"}
# Joiners, selectors and marks of direction: they change how neighbours look, and are no sign of their own.
_UNSEEN = {"\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\ufe0e", "\ufe0f"}
# matplotlib orders and shapes scripts written from right to left from this release on.
_SHAPES_TEXT = tuple(int(part) for part in mpl.__version__.split(".")[:2]) >= (3, 11)


def label(text: str, longest: int | None = None) -> str:
    """A text as matplotlib draws it letter by letter.

    Line breaks and tabs become visible signs, spaces at the ends too if there is nothing else; characters that no
    installed font has become ``[name]`` (emoji) or ``[U+6211]``; dollar signs begin no mathematics.

    Args:
        text: Any text.
        longest: Most characters; longer texts lose their middle to an ellipsis. ``None`` keeps all.

    Returns:
        One line of text.
    """
    shown = "".join(_sign(character) for character in unicodedata.normalize("NFC", text))
    shown = shown if shown.strip() else shown.replace(" ", "␣") or "∅"
    shown = _drawable(shown)
    if longest is not None and len(shown) > longest:
        head = (longest - 1 + 1) // 2
        shown = f"{shown[:head].rstrip()}…{shown[len(shown) - (longest - 1 - head) :].lstrip()}"
    return (shown if _SHAPES_TEXT else _turned(shown)).replace("$", r"\$")


def wrapped(text: str, per_line: int) -> str:
    """A longer text, such as a title, in lines.

    Args:
        text: Any text.
        per_line: Most characters a line; longer words are cut.

    Returns:
        At most four lines, the rest left to an ellipsis; empty for no text.
    """
    if not text.strip():
        return ""
    return fill(label(text), per_line, max_lines=4, placeholder=" …")


def finish(figure: Figure, texts: Iterable[str], *, note: str = "") -> Figure:
    """Give a figure a note below it, the fonts that its texts need, and a word about what even these lack.

    Args:
        figure: The figure, all of whose labels went through :func:`label`.
        texts: What was to be written, before :func:`label`.
        note: What a reader of the figure has to know.

    Returns:
        The same figure.
    """
    needed = set("".join(texts))
    lines = [note] if note else []
    if missing := _missing(needed):
        count = f"{len(missing)} character{'s' if len(missing) > 1 else ''}"
        lines.append(f"No installed font has {count} of these labels: [in brackets] by name or number.")
    # With the pads of matplotlib titles lose their highest pixels at the edge.
    if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
        engine.set(h_pad=0.08, w_pad=0.06)
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=8, color="#444444")
    families = _families()
    if not needed <= _characters(families[0]):
        for text in figure.findobj(Text):
            text.set_fontfamily(list(families))
    return figure


def _sign(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    if category in ("Cc", "Cs", "Cn", "Co"):
        return f"[U+{ord(character):04X}]"
    return "" if character in _UNSEEN or category == "Cf" else character


def _drawable(text: str) -> str:
    missing = _missing(set(text))
    if not missing:
        return text
    parts: list[str] = []
    for character in text:
        if character not in missing:
            parts.append(character)
            continue
        said = _said(character)
        # Neighbours share one pair of brackets.
        if parts and parts[-1].startswith("[") and len(parts[-1]) > 1:
            parts[-1] = f"{parts[-1][:-1]} {said}]"
        else:
            parts.append(f"[{said}]")
    return "".join(parts)


def _said(character: str) -> str:
    name = unicodedata.name(character, "")
    if unicodedata.category(character) in ("So", "Sk") and name:
        return name.lower()
    return f"U+{ord(character):04X}"


def _missing(characters: set[str]) -> set[str]:
    known = set[str]()
    for family in _families():
        known |= _characters(family)
    unseen = _UNSEEN | set(_VISIBLE)
    return {one for one in characters - known if one not in unseen and unicodedata.category(one)[0] != "C"}


def _families() -> tuple[str, ...]:
    """The user's own fonts first, then those that know more, as far as they are installed."""
    own = mpl.rcParams["font.family"]
    return _installed(tuple([own] if isinstance(own, str) else own))


@lru_cache(maxsize=8)
def _installed(own: tuple[str, ...]) -> tuple[str, ...]:
    further = [family for family in _FURTHER_FONTS if family not in own and _path(family)]
    return (*own, *further)


@lru_cache(maxsize=64)
def _path(family: str) -> str:
    try:
        return str(findfont(FontProperties(family=[family]), fallback_to_default=False))
    except ValueError:
        return ""


@lru_cache(maxsize=64)
def _characters(family: str) -> frozenset[str]:
    path = _path(family)
    charmap: dict[Any, Any] = get_font(path).get_charmap() if path else {}
    return frozenset(chr(int(code)) for code in charmap)


def _turned(text: str) -> str:
    """Runs of right-to-left letters in the order in which they are seen; older releases of matplotlib need it."""
    clusters: list[str] = []
    for character in text:
        if clusters and unicodedata.combining(character):
            clusters[-1] += character
        else:
            clusters.append(character)
    turned, run = list[str](), list[str]()
    for cluster in [*clusters, ""]:
        if cluster and unicodedata.bidirectional(cluster[0]) in ("R", "AL"):
            run.append(cluster)
        else:
            turned += [*reversed(run), cluster]
            run = []
    return "".join(turned)
