"""Decide what the tokens of a forward pass mean, from the family and from what the user said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from attrib_plugin.errors import InputError, UnknownModelError, UnsupportedAttentionError
from attrib_plugin.families.base import CLS, LAST, MEAN, Member
from attrib_plugin.functional.choices import whole_number
from attrib_plugin.records import Readout, TokenLayout

_T = TypeVar("_T")

ReadoutArgument = str | int | Tensor | None

_BY_NAME = {"cls": CLS, "mean": MEAN, "last": LAST}


@dataclass(frozen=True, eq=False)
class TokenFacts:
    """What is known about a forward pass before its tokens are given a meaning.

    Attributes:
        n_tokens: Tokens in the attention of the last layer, which the head reads.
        batch_size: Samples.
        n_text_tokens: Tokens of the text input; ``None`` for images.
        image_size: Height and width of the image input; ``None`` for text.
        padding: True at padding, ``batch token``; ``None`` when every token is real.
        like: A tensor whose device and floating dtype weights shall have.
        pooling: Weights of the last tokens in the model's attention pooling; ``None`` if it has none.
        input_grid: Rows and columns of patches, where tokens were followed from them; ``None`` elsewhere.
    """

    n_tokens: int
    batch_size: int
    n_text_tokens: int | None
    image_size: tuple[int, int] | None
    padding: Tensor | None
    like: Tensor
    pooling: Tensor | None = None
    input_grid: tuple[int, int] | None = None


def opened_with(opening: str, form: str, readout: ReadoutArgument) -> str:
    """The beginning of a call with the read-out that the user gave, so that a message does not take it away.

    Args:
        opening: How the call begins.
        form: How a read-out is written in it.
        readout: The user's read-out, if any.

    Returns:
        The beginning of the call.
    """
    return opening if readout is None else f"{opening}, {form.format(written(readout))}"


def written(readout: ReadoutArgument) -> str:
    """A read-out as it is written in a call.

    Args:
        readout: The read-out.

    Returns:
        Code; tensors go by a name.
    """
    if isinstance(readout, Tensor):
        return "weights" if readout.is_floating_point() else "positions"
    return f'"{readout}"' if isinstance(readout, str) else repr(readout)


def token_layout(
    member: Member,
    facts: TokenFacts,
    *,
    readout: ReadoutArgument = None,
    grid: tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
    opening: str = "Method(model",
    form: str = "readout={}",
) -> TokenLayout:
    """Give the tokens of a forward pass their meaning.

    Args:
        member: The recognised module.
        facts: What is known about the forward pass.
        readout: The user's read-out; ``None`` asks the family.
        grid: The user's patch grid; ``None`` asks the family.
        prefix_tokens: The user's number of leading tokens that are no patches; ``None`` asks the family.
        opening: How the call begins that a message shows to the user.
        form: How the read-out of these tokens is written in that call.

    Returns:
        The layout.

    Raises:
        UnknownModelError: If read-out or grid cannot be known.
        UnsupportedAttentionError: If the attention is not over the tokens of the input.
        InputError: If the user's read-out does not fit.
    """
    asked = None if readout is not None or member.readout is not None else form
    _check_known(member, facts, opening, asked=asked, grid=grid)
    if facts.image_size is None:
        prefix, patches = 0, None
        _check_text(member, facts)
    else:
        patches = _patch_grid(member, facts.image_size, grid)
        prefix = _prefix(member, facts, patches, prefix_tokens)
    return TokenLayout(
        readout=_weights(member, facts, prefix, readout),
        prefix_tokens=prefix,
        grid=patches,
        padding=facts.padding,
        family=member.family.name,
        patch_size=member.family.patch_size(member.module) if patches is not None and grid is None else None,
    )


def _check_text(member: Member, facts: TokenFacts) -> None:
    if facts.n_tokens != facts.n_text_tokens:
        raise UnsupportedAttentionError(
            f"Attention of {_named(member)} is over {facts.n_tokens} tokens, but the input has {facts.n_text_tokens}. "
            "Expected one attention token for each input token."
        )


def _patch_grid(member: Member, image_size: tuple[int, int], grid: tuple[int, int] | None) -> tuple[int, int]:
    if grid is not None or member.family.patch_grid is None:
        return _known(grid)
    return member.family.patch_grid(member.module, *image_size)


def _prefix(member: Member, facts: TokenFacts, grid: tuple[int, int], prefix_tokens: int | None) -> int:
    n_patches = grid[0] * grid[1]
    if facts.input_grid is not None:
        _check_followed(member, facts.input_grid, grid, prefix_tokens)
        return 0
    if prefix_tokens is None:
        knows = member.family.patch_grid is not None
        # Without being told, one class token is the most that is believed of an unknown model.
        prefix_tokens = member.family.prefix_tokens(member.module) if knows else int(facts.n_tokens == n_patches + 1)
    if prefix_tokens < 0 or prefix_tokens + n_patches != facts.n_tokens:
        raise UnsupportedAttentionError(
            f"Attention of {_named(member)} is over {facts.n_tokens} tokens, which are not {prefix_tokens} prefix "
            f"tokens and {grid[0]} x {grid[1]} patches. If the attention is global, give grid=(rows, columns) and "
            "prefix_tokens=number; windowed, channel and merged-patch attention cannot be followed from token to token."
        )
    return prefix_tokens


def _check_followed(
    member: Member, followed: tuple[int, int], grid: tuple[int, int], prefix_tokens: int | None
) -> None:
    if tuple(grid) != followed or prefix_tokens:
        raise UnsupportedAttentionError(
            f"Tokens of {_named(member)} were followed from {followed[0]} x {followed[1]} patches, which are not "
            f"{prefix_tokens or 0} prefix tokens and {grid[0]} x {grid[1]} patches. Leave grid and prefix_tokens out."
        )


def _weights(member: Member, facts: TokenFacts, prefix: int, readout: ReadoutArgument) -> Tensor:
    if isinstance(readout, Tensor):
        return _given_weights(readout, facts)
    weights = torch.zeros(facts.batch_size, facts.n_tokens, dtype=_floating(facts.like), device=facts.like.device)
    if (position := whole_number(readout)) is not None:
        return _one_hot(weights, torch.full((facts.batch_size,), position, device=weights.device))
    if readout is None:
        known = _known(member.readout)
    elif isinstance(readout, str) and readout in _BY_NAME:
        known = _BY_NAME[readout]
    else:
        raise InputError(
            "readout must be 'cls', 'mean', 'last', an int, a LongTensor (B,) of positions or a FloatTensor (T,) or "
            f"(B, T) of weights, not {readout!r}."
        )
    return _spread(weights, known, facts, prefix)


def _spread(weights: Tensor, readout: Readout, facts: TokenFacts, prefix: int) -> Tensor:
    if readout.prefix:
        shares = weights.new_tensor(readout.prefix)
        weights[:, : len(shares)] += shares
    real = torch.ones_like(weights) if facts.padding is None else (~facts.padding).to(weights)
    if readout.rest:
        others = real.clone()
        others[:, :prefix] = 0
        weights += readout.rest * others / others.sum(-1, keepdim=True)
    if readout.every:
        weights += readout.every * real / real.sum(-1, keepdim=True)
    if readout.pool:
        weights += readout.pool * _pooling(facts, prefix, weights)
    if readout.last:
        positions = torch.arange(facts.n_tokens, device=weights.device)
        weights.scatter_add_(
            1, (real * positions).argmax(-1, keepdim=True), weights.new_full((len(weights), 1), readout.last)
        )
    return weights


def _pooling(facts: TokenFacts, prefix: int, like: Tensor) -> Tensor:
    pooled = facts.pooling
    # Pooling reads either all tokens or the patches alone.
    if pooled is None or pooled.shape[-1] not in (facts.n_tokens, facts.n_tokens - prefix):
        found = "none" if pooled is None else f"attention over {pooled.shape[-1]} of them"
        raise UnsupportedAttentionError(
            f"Expected one attention pooling of the {facts.n_tokens} tokens, found {found}. Say what is read with "
            'readout="cls", "mean" or weights.'
        )
    return torch.nn.functional.pad(pooled.to(like), (facts.n_tokens - pooled.shape[-1], 0))


def _given_weights(readout: Tensor, facts: TokenFacts) -> Tensor:
    batch, tokens = facts.batch_size, facts.n_tokens
    weights = torch.zeros(batch, tokens, dtype=_floating(facts.like), device=facts.like.device)
    if not readout.is_floating_point():
        if readout.dtype is torch.bool or readout.shape != (batch,):
            raise InputError(
                f"A readout of positions must be a LongTensor of shape ({batch},), one for each sample, not "
                f"{readout.dtype} {tuple(readout.shape)}. NoiseTunnel repeats samples but not this keyword: give one "
                "int, or set readout in the constructor."
            )
        return _one_hot(weights, readout.to(weights.device, torch.int64))
    if readout.shape not in ((tokens,), (batch, tokens)):
        raise InputError(
            f"A readout of weights must have shape ({tokens},) or ({batch}, {tokens}), not {tuple(readout.shape)}. "
            "NoiseTunnel repeats samples but not this keyword: give weights of one sample."
        )
    if not torch.isfinite(readout).all() or (readout < 0).any() or not readout.any(-1).all():
        raise InputError("Weights of a readout must be finite, non-negative and not all zero for any sample.")
    return weights + readout.to(weights)


def _one_hot(weights: Tensor, positions: Tensor) -> Tensor:
    tokens = weights.shape[-1]
    if ((positions < -tokens) | (positions >= tokens)).any():
        raise InputError(f"A readout position must be within the {tokens} tokens, not {positions.tolist()}.")
    return weights.scatter_(1, positions.remainder(tokens)[:, None], 1.0)


def _floating(like: Tensor) -> torch.dtype:
    return torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype


def _named(member: Member) -> str:
    return f"{type(member.module).__name__} (family {member.family.name})"


def _check_known(
    member: Member, facts: TokenFacts, opening: str, *, asked: str | None, grid: tuple[int, int] | None
) -> None:
    """Say everything that is missing at once, with the call that gives it."""
    missing, arguments, remarks = [], [], []
    if asked is not None:
        missing.append(f"which tokens the head of {_named(member)} reads")
        arguments.append(asked.format('"mean"'))
        remarks.append(' Other read-outs are "cls", "last", a position or weights.')
    if facts.image_size is not None and grid is None and member.family.patch_grid is None:
        missing.append(f"where the {facts.n_tokens} tokens of {_named(member)} are in the image")
        arguments.append(_likely_grid(facts.n_tokens, facts.image_size))
        remarks.append(" A grid is rows and columns of patches, without the prefix tokens before them.")
    if missing:
        raise UnknownModelError(
            f"It is not known {', nor '.join(missing)}. Say what is true of it, such as: "
            f"{opening}, {', '.join(arguments)}).{''.join(remarks)}"
        )


def _likely_grid(n_tokens: int, image_size: tuple[int, int], most_prefix_tokens: int = 8) -> str:
    """The arguments for square patches that fill the image, behind as few other tokens as possible."""
    for prefix in range(min(n_tokens, most_prefix_tokens + 1)):
        for rows in range(1, n_tokens - prefix + 1):
            columns, rest = divmod(n_tokens - prefix, rows)
            if rest == 0 and image_size[0] * columns == image_size[1] * rows and image_size[0] % rows == 0:
                return f"grid=({rows}, {columns}), prefix_tokens={prefix}"
    return "grid=(rows, columns), prefix_tokens=number"


def _known(fact: _T | None) -> _T:
    if fact is None:
        raise ValueError("What is not known is asked of the user before it is used.")
    return fact
