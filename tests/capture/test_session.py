"""A session records the calls of one model in one thread, in order, and refuses what it cannot read in full."""

import threading

import pytest
import torch
import torch.nn.functional as F
from attention_stack import (
    CLOSE,
    DIM,
    SAME,
    Attention,
    Stack,
    assert_all_close,
    attention_and_gradients,
    batch,
    ready,
)
from torch import nn

from attrib_plugin.capture import CaptureSession, call_probabilities, capture_attention
from attrib_plugin.errors import CaptureError, NothingCapturedError, UnsupportedAttentionError

# ------------------------------------------------------------------------------------- order and names


def test_calls_are_in_the_order_in_which_they_were_made():
    model = ready(Stack(Attention(), nn.Identity(), Attention(), Attention()))

    with CaptureSession(model) as session:
        model(batch())

    assert [(call.index, call.name) for call in session.calls] == [(0, "layers.0"), (1, "layers.2"), (2, "layers.3")]


def test_module_that_runs_several_times_gives_a_call_each_time():
    shared = Attention()
    model, inputs = ready(Stack(shared, shared, shared)), batch()

    probabilities, gradients = attention_and_gradients(model, inputs)

    unshared = Stack(Attention(), Attention(), Attention()).double().eval()
    unshared.load_state_dict(model.state_dict())
    expected_probabilities, expected_gradients = attention_and_gradients(unshared, inputs)
    assert len(probabilities) == 3
    assert_all_close(probabilities, expected_probabilities, **SAME)
    assert_all_close(gradients, expected_gradients, **CLOSE)
    assert (probabilities[0] - probabilities[1]).abs().max() > 1e-3


def test_albert_of_transformers_gives_its_shared_layer_once_for_each_run():
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(
        vocab_size=20, embedding_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8
    )
    model = ready(AlbertForSequenceClassification(config))

    with CaptureSession(model) as session:
        logits = model(torch.tensor([[3, 7, 5, 11]])).logits
        gradients = session.output_gradients(logits[:, 0])

    assert len(session.calls) == len(gradients) == 3
    assert len({call.name for call in session.calls}) == 1
    assert not torch.equal(call_probabilities(session.calls[0]), call_probabilities(session.calls[2]))


def test_calls_of_two_forward_passes_follow_each_other():
    model = ready(Stack(Attention(), Attention()))

    with CaptureSession(model) as session:
        model(batch())
        model(batch())

    assert [call.name for call in session.calls] == ["layers.0", "layers.1"] * 2


def test_kinds_tell_self_causal_cross_and_pooling_attention_apart():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.causal = Attention(), Attention(is_causal=True)
            self.crossattention, self.pool = Attention(), Attention()

        def forward(self, hidden, context):
            hidden = self.causal(self.plain(hidden))
            hidden = self.crossattention(hidden, context[:, :5])  # as many keys as queries: known by name
            return self.pool(self.plain(hidden, context)[:, :1], hidden)

    model = ready(Model())

    with CaptureSession(model) as session:
        model(batch(), batch(tokens=7))

    assert [call.kind for call in session.calls] == ["self", "causal", "cross", "cross", "pool"]


@pytest.mark.parametrize("mask", ["boolean", "additive"])
def test_mask_that_hides_what_follows_makes_a_call_causal(mask):
    visible = torch.ones(5, 5, dtype=torch.bool).tril()
    mask = visible if mask == "boolean" else torch.zeros(5, 5).masked_fill(~visible, torch.finfo(torch.float32).min)

    class Model(nn.Module):
        def forward(self, hidden):
            heads = hidden[:, None]
            return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)

    with CaptureSession(Model()) as session:
        session.model(torch.randn(2, 5, DIM))

    assert [call.kind for call in session.calls] == ["causal"]


def test_model_that_is_itself_the_attention_has_an_empty_name():
    model = ready(Attention())

    with CaptureSession(model) as session:
        model(batch())

    assert [call.name for call in session.calls] == [""]


def test_attention_outside_of_the_model_is_not_recorded():
    model = ready(Stack(Attention()))
    heads = batch()[:, None]

    with CaptureSession(model) as session:
        F.scaled_dot_product_attention(heads, heads, heads)
        Attention().double()(batch())
        model(batch())
        heads.softmax(-1)

    assert [call.name for call in session.calls] == ["layers.0"]


# ------------------------------------------------------------------------------------- refusals


def test_model_without_attention_is_refused_with_what_was_expected():
    model = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU())

    with CaptureSession(model.double()) as session:
        model(batch())

    with pytest.raises(NothingCapturedError, match=r"No attention call was seen in Sequential\. Expected calls of"):
        _ = session.calls
    with pytest.raises(NothingCapturedError, match=r"'sdpa' or 'eager' attention implementation"):
        _ = session.calls


def test_model_that_was_not_run_is_refused():
    with (
        capture_attention(Stack(Attention())) as captured,
        pytest.raises(NothingCapturedError, match="Was the forward"),
    ):
        _ = captured.calls


def test_model_run_in_another_thread_is_refused():
    model = ready(Stack(Attention()))

    with CaptureSession(model) as session:
        thread = threading.Thread(target=model, args=(batch(),))
        thread.start()
        thread.join()

    with pytest.raises(NothingCapturedError, match="in this thread"):
        _ = session.calls


@pytest.mark.parametrize("cut", ["detach", "no_grad", "inference_mode"])
def test_attention_that_the_forward_pass_cuts_off_is_refused_with_its_name(cut):
    class Cutting(nn.Module):
        def __init__(self):
            super().__init__()
            self.lower, self.upper = Attention(), Attention()

        def forward(self, hidden):
            if cut == "detach":
                return self.upper(self.lower(hidden).detach()).mean(1)
            with getattr(torch, cut)():
                hidden = self.lower(hidden)
            return self.upper(hidden.clone()).mean(1)

    model = ready(Cutting())

    with (
        CaptureSession(model) as session,
        pytest.raises(UnsupportedAttentionError, match=r"1 of 2 attention calls \(first: 'lower'\).*no_grad, \.detach"),
    ):
        session.output_gradients(model(batch())[:, 0])


def test_attention_beside_the_explained_output_is_refused_with_its_name():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = Attention(), Attention()

        def forward(self, hidden):
            self.unused(hidden)
            return self.used(hidden).mean(1)

    model = ready(Branches())

    with CaptureSession(model) as session, pytest.raises(UnsupportedAttentionError, match=r"1 of 2 .*first: 'unused'"):
        session.output_gradients(model(batch())[:, 0])


def test_score_without_graph_is_refused():
    model = ready(Stack(Attention()))

    with CaptureSession(model) as session:
        score = model(batch())[:, 0]
        with pytest.raises(CaptureError, match="its graph is missing"):
            session.output_gradients(score.detach())


def test_session_without_gradients_records_and_keeps_no_graph():
    model, inputs = ready(Stack(Attention(), Attention())), batch()

    with CaptureSession(model, gradients=False) as session:
        output = model(inputs)
        with pytest.raises(CaptureError, match="its graph is missing"):
            session.output_gradients(output[:, 0])

    assert not output.requires_grad
    assert not any(call.output.requires_grad for call in session.calls)
    expected, _ = attention_and_gradients(model, inputs)
    assert_all_close([call_probabilities(call) for call in session.calls], expected, **SAME)


def test_gradients_need_retain_graph_for_another_backward_pass():
    model = ready(Stack(Attention(), Attention()))

    with CaptureSession(model) as session:
        score = model(batch())[:, 0]
        first = session.output_gradients(score, retain_graph=True)
        second = session.output_gradients(score)

    assert_all_close(first, second, **SAME)
