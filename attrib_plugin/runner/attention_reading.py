"""The attention of one forward pass with names for its tokens, which views and figures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError, UnknownModelError
from attrib_plugin.families import find_member
from attrib_plugin.methods import AttentionRollout, RawAttention
from attrib_plugin.postprocessing import TextToken
from attrib_plugin.runner.reading import names_image, read_image, read_text, unpack_pipeline
from attrib_plugin.visualization import patch_names


@dataclass(frozen=True, eq=False)
class ReadAttention:
    """Attention of all layers and heads for one input.

    Attributes:
        layers: Probabilities of every layer (head,query,key).
        readout: Weights of the tokens that the head reads (token,), one for a class token; ``None`` if not known or not
            asked for.
        tokens: Names of the tokens.
        title: The model and its input, in a line.
        pixels: What the model saw of an image, (height,width,3) between 0 and 1; ``None`` for a text.
        grid: Rows and columns of patches; ``None`` for a text.
        patch_size: Height and width of a patch in pixels, where the family knows it.
        prefix_tokens: Leading tokens that are no patches.
    """

    layers: tuple[Tensor, ...]
    readout: Tensor | None
    tokens: tuple[str, ...]
    title: str
    pixels: np.ndarray[Any, Any] | None = None
    grid: tuple[int, int] | None = None
    patch_size: tuple[int, int] | None = None
    prefix_tokens: int = 0


def read_attention(
    model: nn.Module,
    text_or_image: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    sample: int | None = None,
    prefix_names: Sequence[str] | None = None,
    with_readout: bool = True,
    options: Mapping[str, Any],
) -> ReadAttention:
    """Run a model once and keep its attention.

    Args:
        model: The model, unmodified.
        text_or_image: As in :func:`~attrib_plugin.runner.attention_view.view`.
        tokenizer: For a text.
        processor: For an image.
        sample: Which one of a batch, from 0; needed if there are several.
        prefix_names: Names of the leading tokens of an image that are no patches.
        with_readout: Whether the read-out is wanted too, which takes another forward pass.
        options: ``readout``, ``grid`` and ``prefix_tokens`` for models that no family knows.

    Returns:
        The attention.

    Raises:
        InputError: If tokenizer or processor is missing, or a batch comes without ``sample``.
        CaptureError: If the model's attention cannot be read.
    """
    model, tokenizer, processor = unpack_pipeline(model, tokenizer, processor)
    chosen = one_of(text_or_image, sample)
    name = type(model).__name__
    if isinstance(chosen, str) and not names_image(chosen, processor):
        ids, keywords, shown = read_text(chosen, tokenizer, model)
        layers, readout = _attention(model, ids, keywords, options, with_readout)
        tokens = tuple(token_name(token, chosen) for token in shown["tokens"])
        return ReadAttention(layers, readout, tokens, f"{name}: {_short(chosen)}")
    image, _, shown = read_image(chosen, processor, model)
    layers, readout = _attention(model, image, {}, options, with_readout)
    grid, patch_size = _patches(model, (image.shape[-2], image.shape[-1]), options.get("grid"))
    prefix = layers[0].shape[-1] - grid[0] * grid[1]
    return ReadAttention(
        layers,
        readout,
        tuple(patch_names(grid, prefix, prefix_names)),
        f"{name}: attention over an image",
        shown["pixels"],
        grid,
        patch_size,
        prefix,
    )


def token_name(token: TextToken, text: str) -> str:
    """A token as the text has it, or as the vocabulary writes it where it stands for no text.

    Args:
        token: The token.
        text: The text.

    Returns:
        Its name, never empty.
    """
    return token.piece if token.is_special else text[token.start : token.end].strip() or token.piece


def one_of(given: Any, sample: int | None) -> Any:
    """The one input that is shown; it alone is run.

    Args:
        given: An input, or a list, tuple or tensor (B,C,H,W) of them.
        sample: Which one, from 0; needed if there are several.

    Returns:
        The input.

    Raises:
        InputError: If it is not said which, or there is none of that number.
    """
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


def _attention(
    model: nn.Module, inputs: Tensor, keywords: dict[str, Any], options: Mapping[str, Any], with_readout: bool
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    layers = RawAttention(model, **options).head_attention(inputs, forward_kwargs=keywords)
    readout = _readout(model, inputs, keywords, options) if with_readout else None
    return tuple(_drawable(layer[0]) for layer in layers), None if readout is None else _drawable(readout)


def _drawable(probs: Tensor) -> Tensor:
    """On the CPU, and in no fewer digits than float32, since pictures multiply layers."""
    probs = probs.detach().cpu()
    return probs if probs.dtype == torch.float64 else probs.float()


def _readout(model: nn.Module, inputs: Tensor, keywords: dict[str, Any], options: Mapping[str, Any]) -> Tensor | None:
    try:
        # Along the residual path alone, nothing but the read-out itself arrives.
        rows = AttentionRollout(model, residual=1.0, **options).layer_rows(inputs, forward_kwargs=keywords)
    except UnknownModelError:
        return None
    return rows[-1][0]


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


def _short(text: str, most: int = 80) -> str:
    words = " ".join(text.split())
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"
