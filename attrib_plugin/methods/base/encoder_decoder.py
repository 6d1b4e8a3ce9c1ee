"""An encoder with a decoder: which calls belong to which, and what the tokens of both mean."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attrib_plugin.capture import call_padding, encoder_decoder_calls, n_tokens
from attrib_plugin.errors import InputError
from attrib_plugin.families import Member, TokenFacts, token_layout
from attrib_plugin.methods.base.forward_pass import Arrangement, Query
from attrib_plugin.methods.base.inputs import ModelInput, check_ids
from attrib_plugin.records import AttentionCall, AttentionTrace, TokenLayout


def encoder_with_decoder(member: Member, query: Query, calls: tuple[AttentionCall, ...]) -> Arrangement:
    """Self-attention of an encoder and of a decoder, and the attention from one to the other.

    Args:
        member: The model as recognised.
        query: What is asked; its read-out is of decoder tokens.
        calls: All calls of the forward pass.

    Returns:
        The arrangement. Its trace has the layout of the encoder's tokens, of which the head reads none, and the parts
        ``"encoder"``, ``"decoder"`` and ``"cross"``; the layout of the latter two is that of the decoder's tokens.
    """
    found = encoder_decoder_calls(calls)
    by_part = {"encoder": found.encoder, "decoder": found.decoder, "cross": found.cross}
    layout = _encoder_layout(member, query, found.encoder)

    def sorted_by_part(trace: AttentionTrace) -> AttentionTrace:
        layouts = {"encoder": layout, "decoder": trace.layout, "cross": trace.layout}
        parts = {part: _only(trace, chosen, layouts[part]) for part, chosen in by_part.items()}
        return replace(trace, layout=layout, parts=parts)

    everything = sorted((*found.encoder, *found.decoder, *found.cross), key=lambda call: call.index)
    return Arrangement(tuple(everything), _text_facts(query, found.decoder), sorted_by_part)


def check_decoder_ids(given: ModelInput, member: Member) -> None:
    """Check the ids of the decoder's tokens before the model is run.

    Args:
        given: The checked arguments.
        member: The model as recognised.

    Raises:
        InputError: If ids are outside the vocabulary, or there are more than the model takes.
    """
    ids = given.keywords.get("decoder_input_ids")
    if not isinstance(ids, Tensor):
        return
    if ids.dim() != 2 or ids.numel() == 0:
        raise InputError(f"Expected decoder_input_ids of shape (B, T), found {tuple(ids.shape)}.")
    longest = member.family.max_tokens(member.module)
    if longest is not None and ids.shape[1] > longest:
        raise InputError(
            f"{type(member.module).__name__} takes at most {longest} decoder tokens, found {ids.shape[1]}. "
            "Truncate the text."
        )
    check_ids(ids, member.module)


def _encoder_layout(member: Member, query: Query, encoder: tuple[AttentionCall, ...]) -> TokenLayout:
    given = query.given
    facts = _text_facts(query, encoder)
    if given.image_size is not None:
        facts = replace(facts, n_text_tokens=None, image_size=given.image_size, padding=None)
    else:
        facts = replace(facts, n_text_tokens=given.n_text_tokens)
    layout = token_layout(
        member, facts, readout="mean", grid=query.grid, prefix_tokens=query.prefix_tokens, opening=query.opening
    )
    return replace(layout, readout=torch.zeros_like(layout.readout))


def _text_facts(query: Query, calls: tuple[AttentionCall, ...]) -> TokenFacts:
    count = n_tokens(calls)
    return TokenFacts(
        n_tokens=count,
        batch_size=query.given.batch_size,
        n_text_tokens=count,
        image_size=None,
        padding=call_padding(calls[0]),
        like=calls[0].output,
    )


def _only(trace: AttentionTrace, calls: tuple[AttentionCall, ...], layout: TokenLayout) -> AttentionTrace:
    gradients = None
    if trace.output_gradients is not None:
        by_index = {call.index: one for call, one in zip(trace.calls, trace.output_gradients, strict=True)}
        gradients = tuple(by_index[call.index] for call in calls)
    return AttentionTrace(calls, layout, gradients, max_chunk_bytes=trace.max_chunk_bytes)
