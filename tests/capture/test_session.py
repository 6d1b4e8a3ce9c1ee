"""A session records the calls of one model in one thread, in order, and refuses what it cannot read in full."""

import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin.capture import CaptureSession, call_probabilities, capture_attention
from attrib_plugin.errors import CaptureError, NothingCapturedError, UnsupportedAttentionError

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


# ------------------------------------------------------------------------------------- sessions inside sessions


def test_inner_session_takes_its_own_calls_and_the_outer_one_only_its_own():
    outer_model, inner_model, inputs = ready(Stack(Attention(), Attention())), ready(Stack(Attention())), batch()
    expected_outer, outer_gradients = attention_and_gradients(outer_model, inputs)
    expected_inner, inner_gradients = attention_and_gradients(inner_model, inputs)

    with CaptureSession(outer_model) as outer:
        score = outer_model(inputs)[:, 1]
        with CaptureSession(inner_model) as inner:
            outer_model(inputs)  # nobody's call: the innermost session is on another model
            actual_inner_gradients = inner.output_gradients(inner_model(inputs)[:, 1])
        actual_outer_gradients = outer.output_gradients(score)

    assert [call.name for call in inner.calls] == ["layers.0"]
    assert [call.name for call in outer.calls] == ["layers.0", "layers.1"]
    assert_all_close([call_probabilities(call) for call in inner.calls], expected_inner, **SAME)
    assert_all_close([call_probabilities(call) for call in outer.calls], expected_outer, **SAME)
    assert_all_close(actual_inner_gradients, inner_gradients, **CLOSE)
    assert_all_close(actual_outer_gradients, outer_gradients, **CLOSE)


def test_session_on_a_part_within_the_forward_pass_of_the_whole_takes_the_calls_of_the_part():
    part = ready(Attention())
    sessions = []

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.lower, self.part, self.upper = Attention(), part, Attention()

        def forward(self, hidden):
            hidden = self.lower(hidden)
            with CaptureSession(self.part) as session:
                hidden = self.part(hidden)
            sessions.append(session)
            return self.upper(hidden)

    whole = ready(Whole())

    with CaptureSession(whole) as outer:
        whole(batch())

    assert [call.name for call in outer.calls] == ["lower", "upper"]
    assert [call.name for call in sessions[0].calls] == [""]


def test_two_sessions_on_one_model_each_take_what_is_run_while_they_are_innermost():
    model, first, second = ready(Stack(Attention())), batch(), batch(samples=3)

    with CaptureSession(model) as outer:
        model(first)
        with CaptureSession(model) as inner:
            model(second)
        model(first)

    assert [len(call.output) for call in outer.calls] == [2, 2]
    assert [len(call.output) for call in inner.calls] == [3]


# ------------------------------------------------------------------------------------- threads


def run_together(*functions):
    """Run functions in threads that start at once; raises what they raise."""
    barrier, results = threading.Barrier(len(functions)), {}

    def run(number, function):
        barrier.wait()
        try:
            results[number] = function()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[number] for number in range(len(functions))]


@pytest.mark.parametrize("names", [("bert", "timm_vit"), ("torch_encoder", "torch_encoder"), ("hf_vit", "hf_vit")])
def test_threads_on_two_models_or_on_one_give_the_answers_of_a_single_thread(names):
    def explain(name, target):
        model, (inputs, keywords) = tiny_model(name), tiny_input(name)
        with CaptureSession(model) as session:
            output = model(inputs, **keywords)
            gradients = session.output_gradients(getattr(output, "logits", output)[:, target])
        return [*map(call_probabilities, session.calls), *gradients]

    expected = [explain(name, target) for target, name in enumerate(names)]
    flags = [parameter.requires_grad for name in names for parameter in tiny_model(name).parameters()]

    for _ in range(20):
        together = run_together(*(partial(explain, name, target) for target, name in enumerate(names)))
        for actual, single in zip(together, expected, strict=True):
            assert_all_close(actual, single, **CLOSE)

    assert [parameter.requires_grad for name in names for parameter in tiny_model(name).parameters()] == flags
    for name in names:
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model(name).modules())


def test_plain_thread_beside_an_explaining_thread_is_not_recorded_and_not_changed():
    model, inputs, others = ready(Stack(Attention(), Attention())), batch(), batch(samples=3)
    expected, plain = attention_and_gradients(model, inputs), model(others).detach()

    for _ in range(20):
        (actual, gradients), output = run_together(
            lambda: attention_and_gradients(model, inputs), lambda: model(others).detach()
        )
        assert_all_close(actual, expected[0], **SAME)
        assert_all_close(gradients, expected[1], **CLOSE)
        assert_close(output, plain, **SAME)


class OwnBackward(torch.autograd.Function):
    """A function whose backward pass cannot be taken for several scores at once."""

    @staticmethod
    def forward(context, tensor):
        return 2 * tensor

    @staticmethod
    def backward(context, gradient):
        return gradient * float(2 + 0 * gradient.sum())


@pytest.mark.parametrize("wrap", [lambda logits: logits, OwnBackward.apply], ids=["usual", "own backward"])
def test_gradients_of_several_scores_are_those_of_each_alone(wrap):
    model = tiny_model("bert")
    ids, keywords = tiny_input("bert")
    with CaptureSession(model) as session:
        logits = wrap(model(ids, **keywords).logits)
        calls = session.calls
        expected = [session.output_gradients(logits[:, one], retain_graph=True) for one in range(5)]

        found = list(session.gradients_of_scores([logits[:, one] for one in range(5)], calls=calls))

    assert len(found) == len(expected) == 5
    for one, reference in zip(found, expected, strict=True):
        assert_all_close(one, reference, rtol=0.0, atol=1e-13)
