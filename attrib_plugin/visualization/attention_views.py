"""Attention as pages to click through: by head, for the whole model, between layers, and over an image.

Each function gives a whole HTML document that needs no network. Layers and heads are counted from 0, as in Python.
Pages need a browser of spring 2023 or newer: Chrome or Edge 111, Safari 16.4, Firefox 113.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.packing import pack
from attrib_plugin.visualization.page import write_page

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray


def attention_head_view(
    attention: Sequence[Float[Tensor, "*batch head query key"]],
    tokens: Sequence[str],
    *,
    key_tokens: Sequence[str] | None = None,
    sample: int | None = None,
    title: str = "Attention by head",
) -> str:
    """Lines from token to token for one layer and the heads that the reader chooses, each head in a colour.

    Pointing at a token leaves its lines alone and gives the numbers. The darker a line, the larger the attention.

    Args:
        attention: Probabilities of every layer; ``head_attention`` of a method gives them.
        tokens: Names of the queries, any text.
        key_tokens: Names of the keys, where they are another sequence (cross-attention).
        sample: Which sample of a batch, from 0; needed if there are several.
        title: Heading of the page.

    Returns:
        An HTML document. Attention is rounded to 255 steps of the head's largest, so it is off by at most 1/510.

    Raises:
        InputError: If shapes and tokens do not fit, values are no probabilities, or there is more than a page holds.
    """
    layers = _probabilities(attention, tokens, key_tokens, sample)
    return write_page("head_view", title, _sequences(layers, tokens, key_tokens), pack(layers))


def attention_model_view(
    attention: Sequence[Float[Tensor, "*batch head query key"]],
    tokens: Sequence[str],
    *,
    key_tokens: Sequence[str] | None = None,
    sample: int | None = None,
    title: str = "Attention of the whole model",
) -> str:
    """Every head of every layer as a small map, queries down and keys across; a click enlarges one.

    Args:
        attention: As in :func:`attention_head_view`.
        tokens: As in :func:`attention_head_view`.
        key_tokens: As in :func:`attention_head_view`.
        sample: As in :func:`attention_head_view`.
        title: As in :func:`attention_head_view`.

    Returns:
        An HTML document. Attention is rounded to 255 steps of the head's largest, so it is off by at most 1/510.

    Raises:
        InputError: As in :func:`attention_head_view`.
    """
    layers = _probabilities(attention, tokens, key_tokens, sample)
    return write_page("model_view", title, _sequences(layers, tokens, key_tokens), pack(layers))


def attention_flow_view(
    attention: Sequence[Float[Tensor, "*head token token"]],
    tokens: Sequence[str],
    *,
    residual: float = 0.5,
    target: int = 0,
    sample: int | None = None,
    title: str = "Attention between layers",
) -> str:
    """The graph of attention from the input to the top layer, with what reaches one token at the top.

    Edges are drawn by raw attention, by rollout (which share of the target passes along the edge) or by flow (the
    maximum flow from one input token to the target). The reader chooses target, source, threshold and the share of the
    residual path. The page computes rollout and flow itself, in float64, from attention rounded to 16 bits.

    Args:
        attention: For every layer a non-negative map (token,token), or one for each head, of which the mean is taken.
        tokens: Names of the tokens, any text.
        residual: Share of the residual path at first, between 0 and 1.
        target: The token at the top that is chosen at first, from 0 or from -1 backwards.
        sample: Which sample, where maps have a batch in front, from 0; needed if there are several.
        title: Heading of the page.

    Returns:
        An HTML document.

    Raises:
        InputError: If shapes and tokens do not fit, values are negative or not finite, or an option is out of range.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, figure 1.
    """
    if not 0.0 <= residual <= 1.0:
        raise InputError(f"residual must be between 0 and 1, not {residual}.")
    if not -len(tokens) <= target < len(tokens):
        raise InputError(f"target must be one of the {len(tokens)} tokens, counted from 0, not {target}.")
    whole = [layer if layer.dim() != 2 + (sample is not None) else layer.unsqueeze(-3) for layer in attention]
    layers = [layer.mean(0, keepdim=True) for layer in _checked(whole, tokens, None, sample)]
    facts = {**_sequences(layers, tokens, None), "residual": residual, "target": target % len(tokens)}
    return write_page("flow_view", title, facts, pack(layers, bits=16))


def attention_image_view(
    attention: Sequence[Float[Tensor, "*batch head token token"]],
    pixels: Float[NDArray[Any], "height width 3"],
    *,
    grid: tuple[int, int],
    prefix_tokens: int = 0,
    prefix_names: Sequence[str] | None = None,
    patch_size: tuple[int, int] | None = None,
    sample: int | None = None,
    title: str = "Attention over the image",
) -> str:
    """An image whose patches can be clicked: where the patch, or a prefix token, attends to, for any layer and head.

    Args:
        attention: Probabilities of every layer over prefix tokens and patches.
        pixels: What the model saw, between 0 and 1, before normalisation; a tensor or an array.
        grid: Rows and columns of patches.
        prefix_tokens: Leading tokens that are no patches (class token, registers).
        prefix_names: Their names; ``None`` is ``"CLS"`` for one, and numbers for several.
        patch_size: Height and width of a patch in pixels, the first at the top left; ``None`` spreads the grid evenly.
        sample: Which sample of a batch, from 0; needed if there are several.
        title: Heading of the page.

    Returns:
        An HTML document. Attention is rounded to 255 steps of the head's largest, so it is off by at most 1/510.

    Raises:
        InputError: If attention, grid, prefix tokens and image do not fit, or values are no probabilities.
    """
    tokens = patch_names(grid, prefix_tokens, prefix_names)
    layers = _probabilities(attention, tokens, None, sample)
    url, size = _image_url(pixels)
    facts = {
        **_sequences(layers, tokens, None),
        "grid": grid,
        "prefix": prefix_tokens,
        "image": url,
        "size": size,
        "patch": patch_size or (size[0] / grid[0], size[1] / grid[1]),
    }
    return write_page("image_view", title, facts, pack(layers))


def patch_names(grid: tuple[int, int], prefix_tokens: int = 0, prefix_names: Sequence[str] | None = None) -> list[str]:
    """Names of the tokens of an image.

    Args:
        grid: Rows and columns of patches.
        prefix_tokens: Leading tokens that are no patches.
        prefix_names: Their names; ``None`` is ``"CLS"`` for one, and numbers for several.

    Returns:
        The names; a patch is called by row and column, from 0: ``"2, 13"``.

    Raises:
        InputError: If the number of names is another.
    """
    if prefix_names is None:
        prefix_names = ["CLS"] if prefix_tokens == 1 else [f"prefix {index}" for index in range(prefix_tokens)]
    if len(prefix_names) != prefix_tokens:
        raise InputError(f"Expected {prefix_tokens} prefix_names, one a prefix token, found {len(prefix_names)}.")
    return [*prefix_names, *(f"{row}, {column}" for row in range(grid[0]) for column in range(grid[1]))]


def _sequences(layers: Sequence[Tensor], tokens: Sequence[str], key_tokens: Sequence[str] | None) -> dict[str, Any]:
    return {
        "queries": list(tokens),
        "keys": list(tokens if key_tokens is None else key_tokens),
        "cross": key_tokens is not None,
        "heads": [len(layer) for layer in layers],
    }


def _probabilities(
    attention: Sequence[Tensor], tokens: Sequence[str], key_tokens: Sequence[str] | None, sample: int | None
) -> list[Tensor]:
    layers = _checked(attention, tokens, key_tokens, sample)
    largest = max(float(layer.max()) for layer in layers)
    # Half precision rounds a probability of one up by as much.
    if largest > 1.01:
        raise InputError(
            f"Expected attention probabilities between 0 and 1, found {largest:.4g}. Logits need a softmax first."
        )
    return [layer.clamp(max=1) for layer in layers]


def _checked(
    attention: Sequence[Tensor], tokens: Sequence[str], key_tokens: Sequence[str] | None, sample: int | None
) -> list[Tensor]:
    """Layers (head,query,key) of one sample, on the CPU, that fit the tokens and hold nothing impossible."""
    named = (("tokens", tokens), ("key_tokens", tokens if key_tokens is None else key_tokens))
    for name, names in named:
        if isinstance(names, str) or not all(isinstance(one, str) for one in names):
            raise InputError(
                f"{name} must be a list of strings, one a token, not {type(names).__name__} {names!r:.60}."
            )
    if len(attention) == 0:
        raise InputError("Expected the attention of at least one layer, found none.")
    expected = tuple(len(names) for _, names in named)
    layers = [_of_sample(layer, sample).detach().float().cpu() for layer in attention]
    for index, layer in enumerate(layers):
        if layer.shape[1:] != expected or layer.numel() == 0:
            raise InputError(
                f"Layer {index} attends from {layer.shape[1]} to {layer.shape[2]} tokens with {len(layer)} heads, but "
                f"there are names for {expected[0]} and {expected[1]}. Give one name a token, special tokens too; "
                "key_tokens names the keys where they are another sequence."
            )
        if not torch.isfinite(layer).all() or (layer < 0).any():
            raise InputError(f"Attention of layer {index} holds NaN, infinite or negative values.")
    return layers


def _of_sample(layer: Tensor, sample: int | None) -> Tensor:
    if sample is None and layer.dim() == 3:
        return layer
    if layer.dim() != 4:
        given = "" if sample is None else f" with sample={sample}"
        raise InputError(
            "Expected attention (head, query, key), or (batch, head, query, key) with sample=, found "
            f"{tuple(layer.shape)}{given}."
        )
    if sample is None:
        if len(layer) > 1:
            raise InputError(f"Attention holds {len(layer)} samples, and a page shows one: say which with sample=.")
        sample = 0
    if not 0 <= sample < len(layer):
        raise InputError(f"sample must be one of the {len(layer)} in the batch, counted from 0, not {sample}.")
    return layer[sample]


def _image_url(pixels: Any) -> tuple[str, tuple[int, int]]:
    from PIL import Image

    array = np.asarray(pixels.detach().cpu() if isinstance(pixels, Tensor) else pixels, dtype=np.float64)
    if array.ndim != 3 or array.shape[-1] != 3 or array.size == 0:
        raise InputError(
            f"Expected pixels (height, width, 3), found {array.shape}. A tensor (3, H, W): permute(1, 2, 0)."
        )
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(
            f"Expected pixels between 0 and 1, found {array.min():.4g} to {array.max():.4g}: undo the normalisation."
        )
    buffer = io.BytesIO()
    Image.fromarray(np.rint(array * 255).astype(np.uint8)).save(buffer, format="png")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return url, (array.shape[0], array.shape[1])
