"""Calls of models with several sequences of tokens: an encoder with a decoder, or towers side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile

from attrib_plugin.capture.selection import n_tokens, token_to_token
from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.records import AttentionCall


@dataclass(frozen=True, eq=False)
class EncoderDecoderCalls:
    """The attention calls of an encoder and of the decoder that reads it.

    Attributes:
        encoder: Self-attention of the encoder, from the input upwards.
        decoder: Self-attention of the decoder.
        cross: Attention of decoder tokens to encoder tokens.
    """

    encoder: tuple[AttentionCall, ...]
    decoder: tuple[AttentionCall, ...]
    cross: tuple[AttentionCall, ...]


def encoder_decoder_calls(calls: tuple[AttentionCall, ...]) -> EncoderDecoderCalls:
    """Tell encoder, decoder and cross-attention apart.

    A self-attention call is the decoder's if it shares more of its module's name with a cross-attention call than all
    calls share.

    Args:
        calls: All calls of a forward pass.

    Returns:
        The calls by their part.

    Raises:
        UnsupportedAttentionError: If there is no cross-attention, a part is missing, or the number of tokens changes
            within a part.
    """
    cross = tuple(call for call in calls if _is_cross(call))
    if not cross:
        raise UnsupportedAttentionError(
            f"None of the {len(calls)} attention calls is cross-attention. Expected an encoder-decoder; "
            "GradientRollout and others follow one sequence of tokens. If this is one, its cross-attention can be told "
            "from self-attention only where encoder and decoder have unequally many tokens: add padding to one of them."
        )
    own = tuple(call for call in calls if call not in cross)
    trunk = _shared(call.name for call in calls)
    beside_cross = {call.index for call in own if any(_shared((call.name, one.name)) > trunk for one in cross)}
    encoder = tuple(call for call in own if call.index not in beside_cross)
    decoder = tuple(call for call in own if call.index in beside_cross)
    if not encoder or not decoder:
        missing = "the encoder" if not encoder else "the decoder"
        raise UnsupportedAttentionError(
            f"No self-attention of {missing} was seen among {len(calls)} calls. Expected both in one forward pass: "
            "give the encoder's inputs, not encoder_outputs or past_key_values."
        )
    chosen = EncoderDecoderCalls(
        token_to_token(encoder, allow_pooling=False),
        token_to_token(decoder, allow_pooling=False),
        # The checks of shapes and rows hold for cross-attention as they are.
        token_to_token(tuple(replace(call, kind="self") for call in cross), allow_pooling=False),
    )
    _check_sizes(chosen)
    return chosen


def calls_within(calls: tuple[AttentionCall, ...], path: str) -> tuple[AttentionCall, ...]:
    """The calls that one part of a model made.

    Args:
        calls: All calls of a forward pass.
        path: Dotted name of the part.

    Returns:
        The calls, in order.
    """
    return tuple(call for call in calls if call.name == path or call.name.startswith(f"{path}."))


def n_keys(call: AttentionCall) -> int:
    """Number of tokens that a call attends to.

    Args:
        call: The recorded call.

    Returns:
        The number of keys.
    """
    if call.weights is not None:
        return call.weights.shape[-1]
    return 0 if call.key is None else call.key.shape[-2]


def _is_cross(call: AttentionCall) -> bool:
    # One decoder token attends to many as pooling does.
    return call.kind in ("cross", "pool") or "cross" in call.name.lower()


def _shared(names: Iterable[str]) -> int:
    """How many leading parts of dotted names are the same in all of them."""
    parts = zip(*(name.split(".") for name in names), strict=False)
    return len(list(takewhile(lambda part: len(set(part)) == 1, parts)))


def _check_sizes(calls: EncoderDecoderCalls) -> None:
    read, own = {n_keys(call) for call in calls.cross}, n_tokens(calls.encoder)
    asking, queries = n_tokens(calls.cross), n_tokens(calls.decoder)
    if read != {own} or asking != queries:
        raise UnsupportedAttentionError(
            f"Cross-attention goes from {asking} tokens to {', '.join(map(str, sorted(read)))}, but the decoder has "
            f"{queries} tokens and the encoder {own}. Expected every decoder token to attend to the encoder's tokens."
        )
