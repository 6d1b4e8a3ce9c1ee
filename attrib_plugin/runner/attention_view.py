"""``view``: from a model and a text or an image to its attention as a page to click through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from torch import nn

from attrib_plugin.errors import InputError
from attrib_plugin.runner.attention_reading import ReadAttention, one_of, read_attention
from attrib_plugin.runner.reading import names_image, unpack_pipeline
from attrib_plugin.visualization import (
    attention_flow_view,
    attention_head_view,
    attention_image_view,
    attention_model_view,
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
        model: The model, unmodified; or a transformers pipeline, which brings tokenizer and processor along.
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
    model, tokenizer, processor = unpack_pipeline(model, tokenizer, processor)
    chosen = one_of(text_or_image, sample)
    if kind == "image" and isinstance(chosen, str) and not names_image(chosen, processor):
        raise InputError("kind='image' needs an image, found a text. Give kind='head', 'model' or 'flow'.")
    read = read_attention(
        model,
        chosen,
        tokenizer=tokenizer,
        processor=processor,
        prefix_names=prefix_names,
        with_readout=False,
        options=options,
    )
    title = title or read.title
    if read.pixels is None or read.grid is None:
        return _sequence_view(kind or "head", read, title)
    if kind not in (None, "image"):
        return _sequence_view(kind, read, title)
    page = attention_image_view(
        read.layers,
        read.pixels,
        grid=read.grid,
        prefix_tokens=read.prefix_tokens,
        prefix_names=prefix_names,
        patch_size=read.patch_size,
        title=title,
    )
    return AttentionView(page, height=780, title=title)


def _sequence_view(kind: str, read: ReadAttention, title: str) -> AttentionView:
    n_layers, n_heads = len(read.layers), max(len(layer) for layer in read.layers)
    # What fits the drawing, within what fits a screen.
    wanted = 190 + 80 * n_layers * min(1.0, 12 / n_heads) if kind == "model" else 330 + 24 * len(read.tokens)
    page = _SEQUENCE_VIEWS[kind](read.layers, read.tokens, title=title)
    return AttentionView(page, height=int(min(max(wanted, 480), 860)), title=title)
