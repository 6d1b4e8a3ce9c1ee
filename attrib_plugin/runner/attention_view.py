"""``view``: from a model and a text or an image to its attention as a page to click through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from attrib_plugin.errors import InputError
from attrib_plugin.families import find_member
from attrib_plugin.methods import RawAttention
from attrib_plugin.postprocessing import TextToken
from attrib_plugin.runner.reading import dtype_of, names_image, read_image, read_text
from attrib_plugin.visualization import (
    attention_flow_view,
    attention_head_view,
    attention_image_view,
    attention_model_view,
    patch_names,
)

ViewKind = Literal["head", "model", "flow", "image"]
"""Lines between tokens by head, all heads as small maps, the graph between layers, or an image to click on."""

_SEQUENCE_VIEWS: dict[str, Callable[..., str]] = {
    "head": attention_head_view,
    "model": attention_model_view,
    "flow": attention_flow_view,
}


@dataclass(frozen=True, eq=False)
class AttentionView:
    """A page that notebooks show and that can be saved.

    In a notebook it stands in a frame of its own, without access to the notebook.

    Attributes:
        html: The page, a whole HTML document.
        height: Height of the frame in a notebook, in pixels.
        title: What the frame is called for readers who hear it.
    """

    html: str
    height: int = 640
    title: str = "Attention"

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, which needs nothing else.

        Args:
            path: Ends in ``.html``.

        Returns:
            The path.

        Raises:
            InputError: If it ends otherwise.
        """
        path = Path(path)
        if path.suffix not in (".html", ".htm"):
            raise InputError(f"Expected a name that ends in .html, found {path.name!r}.")
        path.write_text(self.html, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        # A frame keeps styles and scripts of several views, and of the notebook, apart; the sandbox makes sure.
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" title="{escape(self.title)}" '
            f'style="width:100%;height:{self.height}px;border:1px solid #8884;border-radius:4px"></iframe>'
        )


def view(
    model: nn.Module,
    text_or_image: Any,
    *,
    kind: ViewKind | None = None,
    tokenizer: Any = None,
    processor: Any = None,
    sample: int | None = None,
    title: str | None = None,
    prefix_names: Sequence[str] | None = None,
    **options: Any,
) -> AttentionView:
    """Show the attention of one forward pass.

    Cost: one forward pass without gradients, and memory for the attention of all layers and heads.

    Args:
        model: The model, unmodified.
        text_or_image: A text; or an image as a PIL image, a file, or a tensor (C,H,W) that is ready for the model. A
            list of these or a tensor (B,C,H,W) is a batch.
        kind: Which view; ``None`` is ``"head"`` for a text and ``"image"`` for an image.
        tokenizer: For a text: a fast transformers tokenizer or a ``sentencepiece.SentencePieceProcessor``.
        processor: For an image: a transformers image processor, or any function from a PIL image to a tensor.
        sample: Which one of a batch, from 0; needed if there are several.
        title: Heading of the page; ``None`` names the model and the text.
        prefix_names: Names of the leading tokens of an image that are no patches.
        **options: ``readout``, ``grid`` and ``prefix_tokens`` for models that no family knows.

    Returns:
        The page, which notebooks show and ``save`` writes.

    Raises:
        InputError: If tokenizer or processor is missing, a batch comes without ``sample``, or the view does not fit.
        CaptureError: If the model's attention cannot be read.
    """
    if kind not in (None, "image", *_SEQUENCE_VIEWS):
        raise InputError(f"kind must be 'head', 'model', 'flow' or 'image', not {kind!r}.")
    chosen = _one_of(text_or_image, sample)
    name = type(model).__name__
    if isinstance(chosen, str) and not names_image(chosen, processor):
        if kind == "image":
            raise InputError("kind='image' needs an image, found a text. Give kind='head', 'model' or 'flow'.")
        ids, keywords, shown = read_text(chosen, tokenizer)
        attention = _attention(model, ids, keywords, options)
        tokens = [_label(token, chosen) for token in shown["tokens"]]
        return _sequence_view(kind or "head", attention, tokens, title or f"{name}: {_short(chosen)}")
    image, _, shown = read_image(chosen, processor, dtype_of(model))
    attention = _attention(model, image, {}, options)
    grid, patch_size = _patches(model, (image.shape[-2], image.shape[-1]), options.get("grid"))
    prefix = attention[0].shape[-1] - grid[0] * grid[1]
    title = title or f"{name}: attention over an image"
    if kind in (None, "image"):
        page = attention_image_view(
            attention,
            shown["pixels"],
            grid=grid,
            prefix_tokens=prefix,
            prefix_names=prefix_names,
            patch_size=patch_size,
            title=title,
        )
        return AttentionView(page, height=780, title=title)
    return _sequence_view(kind, attention, patch_names(grid, prefix, prefix_names), title)


def _one_of(given: Any, sample: int | None) -> Any:
    """The one input that is shown; it alone is run."""
    is_batch = isinstance(given, (list, tuple)) or (isinstance(given, Tensor) and given.dim() == 4)
    if not is_batch:
        if sample not in (None, 0):
            raise InputError(f"sample={sample} needs a batch, found one {type(given).__name__}.")
        return given
    if sample is None and len(given) != 1:
        raise InputError(f"Found a batch of {len(given)}, and a view shows one: say which with sample=.")
    index = sample or 0
    if not 0 <= index < len(given):
        raise InputError(f"sample must be one of the {len(given)} in the batch, counted from 0, not {index}.")
    return given[index]


def _attention(model: nn.Module, inputs: Tensor, keywords: dict[str, Any], options: dict[str, Any]) -> list[Tensor]:
    layers = RawAttention(model, **options).head_attention(inputs, forward_kwargs=keywords)
    return [layer[0] for layer in layers]


def _patches(
    model: nn.Module, size: tuple[int, int], grid: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Rows and columns of patches, and their size in pixels where the family knows it."""
    member = find_member(model)
    if grid is not None:
        return grid, None
    if member.family.patch_grid is None:
        raise InputError("The patch grid of this model is not known: give grid=(rows, columns).")
    return member.family.patch_grid(member.module, *size), member.family.patch_size(member.module)


def _sequence_view(kind: str, attention: list[Tensor], tokens: list[str], title: str) -> AttentionView:
    n_layers, n_heads = len(attention), max(len(layer) for layer in attention)
    # What fits the drawing, within what fits a screen.
    wanted = 190 + 80 * n_layers * min(1.0, 12 / n_heads) if kind == "model" else 330 + 24 * len(tokens)
    page = _SEQUENCE_VIEWS[kind](attention, tokens, title=title)
    return AttentionView(page, height=int(min(max(wanted, 480), 860)), title=title)


def _label(token: TextToken, text: str) -> str:
    """A token as the text has it, or as the vocabulary writes it where it stands for no text."""
    return token.piece if token.is_special else text[token.start : token.end].strip() or token.piece


def _short(text: str, most: int = 80) -> str:
    words = " ".join(text.split())
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"
