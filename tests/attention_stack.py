"""A stack of attention layers whose probabilities and gradients are known."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from attrib_plugin.capture import CaptureSession, call_probabilities

DIM, HEADS = 8, 2


SAME = {"rtol": 0.0, "atol": 0.0}


CLOSE = {"rtol": 0.0, "atol": 1e-12}


class Attention(nn.Module):
    """Self-attention, or attention to a context."""

    def __init__(self, is_causal=False):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(DIM, DIM) for _ in range(3))
        self.is_causal = is_causal

    def forward(self, hidden, context=None):
        sources = hidden, *([hidden if context is None else context] * 2)
        query, key, value = (
            project(source).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project, source in zip((self.query, self.key, self.value), sources, strict=True)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        return hidden + attended.transpose(1, 2).flatten(2)


class Stack(nn.Module):
    def __init__(self, *layers, n_classes=3):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(DIM, n_classes)

    def forward(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(1))


def ready(module):
    return module.double().eval()


def batch(samples=2, tokens=5):
    return torch.randn(samples, tokens, DIM, dtype=torch.float64)


def attention_and_gradients(model, *arguments, target=1):
    with CaptureSession(model) as session:
        score = model(*arguments)[:, target].sum()
        gradients = session.output_gradients(score)
    return [call_probabilities(call) for call in session.calls], gradients


def assert_all_close(actual, expected, **tolerance):
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, **tolerance)
