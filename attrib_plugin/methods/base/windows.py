"""From the tokens of a sample to the slots of its windows and back, and from merged tokens to those below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.families import Member
from attrib_plugin.records import AttentionCall, TokenMerging, TokenPlacement

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Windows:
    """The windows of one attention call. Windows of all samples follow each other, first those of the first sample.

    Args:
        placement: Which token is in which slot.
    """

    def __init__(self, placement: TokenPlacement) -> None:
        self.n_tokens = placement.n_tokens
        self.slots = placement.windows
        self.is_real: Bool[Tensor, "window slot"] = placement.windows >= 0

    def gather(self, rows: Float[Tensor, "*lead batch vector token"]) -> Float[Tensor, "*lead window vector slot"]:
        """Cut rows over tokens into rows over the slots of every window; padding gets zero.

        Args:
            rows: One value a token.

        Returns:
            One value a slot, for the windows of all samples.
        """
        by_slot = rows[..., self.slots.clamp(min=0)] * self.is_real.to(rows.dtype)  # (..., B, V, W, A)
        return by_slot.movedim(-2, -3).flatten(-4, -3)

    def scatter(self, rows: Float[Tensor, "*lead window vector slot"]) -> Float[Tensor, "*lead batch vector token"]:
        """Put rows over slots together again; padding is dropped.

        Args:
            rows: One value a slot, for the windows of all samples.

        Returns:
            One value a token.
        """
        by_slot = _by_sample(rows, len(self.slots)).movedim(-3, -2)  # (..., B, V, W, A)
        tokens = by_slot.new_empty(*by_slot.shape[:-2], self.n_tokens)
        tokens[..., self.slots[self.is_real]] = by_slot[..., self.is_real]
        return tokens

    def dense(self, blocks: Float[Tensor, "*lead window slot slot"]) -> Float[Tensor, "*lead batch token token"]:
        """The matrix over all tokens of a sample, zero between windows.

        Args:
            blocks: The matrix of every window.

        Returns:
            Memory N x N for each sample.
        """
        by_window = _by_sample(blocks, len(self.slots))  # (..., B, W, A, A)
        entries = self.slots[:, :, None] * self.n_tokens + self.slots[:, None, :]
        are_real = self.is_real[:, :, None] & self.is_real[:, None, :]
        matrix = blocks.new_zeros(*by_window.shape[:-3], self.n_tokens**2)
        matrix[..., entries[are_real]] = by_window[..., are_real]
        return matrix.reshape(*matrix.shape[:-1], self.n_tokens, self.n_tokens)

    @property
    def pairs(self) -> Bool[Tensor, "token token"]:
        """Which tokens share a window."""
        n_slots = self.slots.shape[1]
        blocks = torch.ones(len(self.slots), n_slots, n_slots, device=self.slots.device)
        return self.dense(blocks)[0].bool()


def some_windows(call: AttentionCall, chosen: Int[Tensor, " window"]) -> AttentionCall:
    """The same call for some of its windows.

    Args:
        call: A call with a placement, fused or with plain values.
        chosen: Which windows, over all samples.

    Returns:
        The call with the tensors of these windows.
    """
    names = ("query", "key", "value", "mask", "weights")
    tensors = {name: getattr(call, name) for name in names}
    n_windows = len(call.output)
    per_window = {
        name: tensor.index_select(0, chosen)
        for name, tensor in tensors.items()
        if tensor is not None and tensor.dim() == 4 and len(tensor) == n_windows
    }
    return replace(call, **per_window)


def merged_from(rows: Float[Tensor, "*lead token"], mergings: Iterable[TokenMerging]) -> Float[Tensor, "*lead token"]:
    """Rows over merged tokens, as rows over the tokens below: ``r ← r·T``, T the shares of the merging.

    Args:
        rows: One value a token above.
        mergings: In the order in which they happened.

    Returns:
        One value a token below; sums are kept.
    """
    for merging in reversed(tuple(mergings)):
        shared = rows[..., None] * merging.shares.to(rows)  # (..., token, part)
        is_source = merging.sources >= 0
        below = rows.new_zeros(*rows.shape[:-1], merging.n_below)
        rows = below.index_add_(-1, merging.sources[is_source], shared[..., is_source])
    return rows


def tokens_at(
    tensor: Tensor, calls: Sequence[AttentionCall], batch_size: int, *, is_read: bool
) -> tuple[Tensor, int] | None:
    """The tokens of a layer of a windowed model, and at which attention call they are.

    Args:
        tensor: What the layer gave: tokens (B,N,D), a map (B,row,column,D) or (B,D,row,column) of the patches, or
            (with ``is_read``) the windows (B*window,slot,D) that the last call reads.
        calls: All calls of the forward pass.
        batch_size: Number of samples.
        is_read: Whether the tensor is what the last call reads.

    Returns:
        Tokens (B,N,D) and the number of a call over these tokens; ``None`` if there is no such call.
    """
    last = calls[-1].placement
    if (
        is_read
        and last is not None
        and tensor.dim() == 3
        and tensor.shape[:2] == (calls[-1].batch_size, last.windows.shape[1])
    ):
        return Windows(last).scatter(tensor.transpose(1, 2)).transpose(1, 2), len(calls) - 1
    if tensor.dim() == 4 and last is not None and tuple(tensor.shape[-2:]) == last.input_grid:
        tensor = tensor.flatten(2).transpose(1, 2)
    elif tensor.dim() == 4:
        tensor = tensor.flatten(1, 2)
    if tensor.dim() != 3 or len(tensor) != batch_size:
        return None
    known = [place for place, call in enumerate(calls) if call.placement and call.placement.n_tokens == tensor.shape[1]]
    return (tensor, known[-1]) if known else None


def on_patches(rows: Float[Tensor, "*lead token"], calls: Sequence[AttentionCall]) -> Float[Tensor, "*lead token"]:
    """Rows over the tokens of the last of some calls, as rows over the patches of the image.

    Args:
        rows: One value a token.
        calls: The calls from the input up to that one.

    Returns:
        One value a patch; sums are kept.
    """
    for call in reversed(calls):
        rows = rows if call.placement is None else merged_from(rows, call.placement.mergings)
    return rows


def refuse_windows(member: Member, method_name: str) -> None:
    """Refuse a windowed model for a method that follows one set of tokens.

    Args:
        member: The model as recognised.
        method_name: Name of the method.

    Raises:
        UnsupportedAttentionError: If the model's family is windowed.
    """
    if member.family.windowed:
        raise UnsupportedAttentionError(
            f"{type(member.module).__name__} attends within windows and merges tokens between stages "
            f"({member.family.name}); {method_name} follows one set of tokens through all layers. Use GradientRollout, "
            "AttentionRollout, RawAttention or TokenGradCam, which follow them through windows and mergings."
        )


def _by_sample(rows: Tensor, n_windows: int) -> Tensor:
    """Windows of all samples, as ``sample window``, on the third axis from the end."""
    return rows.reshape(*rows.shape[:-3], -1, n_windows, *rows.shape[-2:])
