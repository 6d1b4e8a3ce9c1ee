"""Sessions inside sessions and sessions in threads: each takes its own calls alone."""

import threading
from functools import partial

import pytest
import torch
from attention_stack import (
    CLOSE,
    SAME,
    Attention,
    Stack,
    assert_all_close,
    attention_and_gradients,
    batch,
    ready,
)
from tiny_models import tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin.capture import CaptureSession, call_probabilities

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
