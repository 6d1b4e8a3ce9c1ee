"""Encoder, decoder and cross-attention are told apart by where they sit, for any names of modules."""

import pytest
import torch

from attrib_plugin.capture import calls_within, encoder_decoder_calls, n_keys
from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.records import AttentionCall

ENCODER_TOKENS, DECODER_TOKENS = 5, 3


def recorded(*described, batch=2):
    """Calls from (name, kind, queries, keys), with uniform rows."""
    calls = []
    for index, (name, kind, queries, keys) in enumerate(described):
        weights = torch.full((batch, 4, queries, keys), 1 / keys)
        output = torch.zeros(batch, 4, queries, 6)
        value = torch.zeros(batch, 4, keys, 6)
        calls.append(AttentionCall(index, name, kind, output, value=value, weights=weights, batch_size=batch))
    return tuple(calls)


def model_calls(encoder, own, cross, layers=(2, 2), decoder_tokens=DECODER_TOKENS):
    below = [(encoder.format(at), "self", ENCODER_TOKENS, ENCODER_TOKENS) for at in range(layers[0])]
    above = [
        call
        for at in range(layers[1])
        for call in (
            (own.format(at), "causal", decoder_tokens, decoder_tokens),
            (cross.format(at), "cross", decoder_tokens, ENCODER_TOKENS),
        )
    ]
    return recorded(*below, *above)


NAMES = {
    "bart": (
        "model.encoder.layers.{}.self_attn",
        "model.decoder.layers.{}.self_attn",
        "model.decoder.layers.{}.encoder_attn",
    ),
    "t5": (
        "encoder.block.{}.layer.0.SelfAttention",
        "decoder.block.{}.layer.0.SelfAttention",
        "decoder.block.{}.layer.1.EncDecAttention",
    ),
    "no_such_words": ("below.{}.mix", "above.{}.one", "above.{}.two"),
}


@pytest.mark.parametrize("layers", [(2, 3), (1, 1), (1, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_each_call_goes_to_its_part(names, layers):
    calls = model_calls(*names, layers=layers)

    found = encoder_decoder_calls(calls)

    for part, template, count in zip(
        ("encoder", "decoder", "cross"), names, (layers[0], layers[1], layers[1]), strict=True
    ):
        assert [call.name for call in getattr(found, part)] == [template.format(at) for at in range(count)]


def test_one_decoder_token_is_no_pooling():
    calls = model_calls(*NAMES["t5"], decoder_tokens=1)
    seen = tuple(call if n_keys(call) == 1 or call.kind == "self" else _pooling(call) for call in calls)

    assert [call.index for call in encoder_decoder_calls(seen).cross] == [3, 5]


def _pooling(call):
    return AttentionCall(
        call.index, call.name, "pool", call.output, value=call.value, weights=call.weights, batch_size=call.batch_size
    )


def test_calls_without_cross_attention_are_refused():
    with pytest.raises(UnsupportedAttentionError, match=r"None of the 2 .* Expected an encoder-decoder.*add padding"):
        encoder_decoder_calls(recorded(("a.0", "self", 5, 5), ("a.1", "self", 5, 5)))


def test_a_missing_encoder_is_refused():
    calls = model_calls(*NAMES["bart"])[2:]

    with pytest.raises(UnsupportedAttentionError, match="No self-attention of the encoder was seen among 4 calls"):
        encoder_decoder_calls(calls)


def test_cross_attention_to_other_tokens_than_the_encoders_is_refused():
    names = NAMES["bart"]
    calls = recorded(
        (names[0].format(0), "self", 5, 5), (names[1].format(0), "causal", 3, 3), (names[2].format(0), "cross", 3, 7)
    )

    with pytest.raises(UnsupportedAttentionError, match=r"goes from 3 tokens to 7, but the decoder has 3 .* encoder 5"):
        encoder_decoder_calls(calls)


def test_calls_within_a_part_are_those_of_the_part_and_of_what_it_holds():
    calls = recorded(("text", "self", 5, 5), ("text.a", "self", 5, 5), ("texts.a", "self", 5, 5))

    assert [call.index for call in calls_within(calls, "text")] == [0, 1]
