"""nn.MultiheadAttention, with its masks, its own weights and its fast path."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from attrib_plugin import capture_attention

BATCH, TOKENS, DIM, HEADS, LAYERS, CLASSES = 3, 5, 8, 2, 2, 4

CLOSE = {"rtol": 0.0, "atol": 1e-12}

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 0]])

REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)


def assert_all_close(actual, expected, **tolerance):
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, **tolerance)


# ------------------------------------------------------------------------------------- nn.MultiheadAttention


class MultiheadModel(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        torch.manual_seed(2)
        self.batch_first = settings.get("batch_first", False)
        self.embedding = nn.Embedding(11, DIM)
        self.first = nn.MultiheadAttention(DIM, HEADS, **settings)
        self.second = nn.MultiheadAttention(DIM, HEADS, **settings)
        self.head = nn.Linear(DIM, CLASSES)
        self.double().eval()

    def forward(self, ids, **options):
        hidden = 2 * self.embedding(ids)
        for attention in (self.first, self.second):
            tokens = hidden if self.batch_first else hidden.transpose(0, 1)
            attended, self.weights = attention(tokens, tokens, tokens, **options)
            hidden = torch.tanh(hidden + (attended if self.batch_first else attended.transpose(0, 1)))
        return self.head(hidden.mean(1))

    def explicit(self, ids, additive):
        """The same model written out: output, probabilities."""
        hidden, probabilities = 2 * self.embedding(ids), []
        for attention in (self.first, self.second):
            projected = F.linear(hidden, attention.in_proj_weight, attention.in_proj_bias)
            query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in projected.chunk(3, -1))
            probabilities.append((query @ key.transpose(-1, -2) / math.sqrt(DIM // HEADS) + additive).softmax(-1))
            attended = (probabilities[-1] @ value).transpose(1, 2).flatten(2)
            hidden = torch.tanh(hidden + attention.out_proj(attended))
        return self.head(hidden.mean(1)), probabilities


def hidden_to_infinity(visible):
    return torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -math.inf)


LOOK_BACK = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()

PER_HEAD = torch.randn(BATCH * HEADS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

MULTIHEAD_MASKS = {
    "no mask": ({}, torch.zeros(1, dtype=torch.float64)),
    "padding": ({"key_padding_mask": ~REAL}, hidden_to_infinity(REAL[:, None, None])),
    "boolean": ({"attn_mask": ~LOOK_BACK}, hidden_to_infinity(LOOK_BACK)),
    "additive for each head": ({"attn_mask": PER_HEAD}, PER_HEAD.reshape(BATCH, HEADS, TOKENS, TOKENS)),
    "both": (
        {"attn_mask": ~LOOK_BACK, "key_padding_mask": ~REAL},
        hidden_to_infinity(LOOK_BACK) + hidden_to_infinity(REAL[:, None, None]),
    ),
    "causal": ({"attn_mask": ~LOOK_BACK, "is_causal": True}, hidden_to_infinity(LOOK_BACK)),
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", MULTIHEAD_MASKS)
def test_multihead_attention_agrees_with_autograd(masks, batch_first, need_weights):
    model = MultiheadModel(batch_first=batch_first)
    options, additive = MULTIHEAD_MASKS[masks]
    expected_output, expected_probabilities = model.explicit(IDS, additive)
    expected_gradients = torch.autograd.grad(expected_output[:, 1].sum(), expected_probabilities)
    plain = model(IDS, **options, need_weights=need_weights)

    with capture_attention(model) as captured:
        output = model(IDS, **options, need_weights=need_weights)
        gradients = [call.gradient(of=output[:, 1].sum()) for call in captured.calls]

    assert [call.name for call in captured.calls] == ["first", "second"]
    assert_close(output.detach(), plain.detach(), **CLOSE)
    assert_close(output.detach(), expected_output.detach(), **CLOSE)
    assert_all_close(
        [call.probabilities() for call in captured.calls], [each.detach() for each in expected_probabilities], **CLOSE
    )
    assert_all_close(gradients, expected_gradients, **CLOSE)


def test_multihead_attention_returns_its_own_weights_under_capture():
    model = MultiheadModel(batch_first=True)
    model(IDS, average_attn_weights=False)
    plain = model.weights

    with capture_attention(model) as captured:
        model(IDS, average_attn_weights=False)

    assert_close(model.weights.detach(), plain.detach(), **CLOSE)
    assert_close(captured.calls[-1].probabilities(), plain.detach(), **CLOSE)


def test_errors_of_multihead_attention_stay_torchs_own():
    model = MultiheadModel(batch_first=True)

    with pytest.raises(RuntimeError, match="The shape of the 2D attn_mask is"), capture_attention(model):
        model(IDS, attn_mask=torch.zeros(2, 2, dtype=torch.bool), need_weights=False)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("padding", [None, ~REAL])
def test_fast_path_of_the_encoder_steps_aside_and_gives_the_same(padding, norm_first, frozen):
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(DIM, HEADS, 12, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).double().eval().requires_grad_(not frozen)
    hidden = torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64)
    real = REAL if padding is not None else torch.ones_like(REAL)
    with torch.no_grad():
        plain = model(hidden, src_key_padding_mask=padding)

    with capture_attention(model) as captured:
        output = model(hidden, src_key_padding_mask=padding)

    assert [call.name for call in captured.calls] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert_close(output.detach()[real], plain[real], **CLOSE)
    for call in captured.calls:
        assert_close(call.probabilities().sum(-1), torch.ones(BATCH, HEADS, TOKENS, dtype=torch.float64), **CLOSE)
