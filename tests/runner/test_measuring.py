"""Time, passes and memory are counted, and the model is as before."""

import pytest
import torch
from torch import nn

from attrib_plugin.runner.measuring import counted_passes, measure, peak_memory


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_forward_and_backward_passes_are_counted(model):
    inputs = torch.randn(5, 3, requires_grad=True)

    with counted_passes(model) as passes:
        model(inputs[:2])
        output = model(inputs)
        torch.autograd.grad(output[:, 0].sum(), inputs, retain_graph=True)
        torch.autograd.grad(output[:, 1].sum(), inputs)

    assert (passes.forward_calls, passes.forward_samples, passes.backward_calls) == (2, 7, 2)


def test_the_hooks_are_gone_afterwards_also_after_an_error(model):
    def fail():
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        measure(fail, model)

    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_the_result_and_its_time_are_returned(model):
    found = measure(lambda: model(torch.ones(4, 3)), model)

    assert found.value.shape == (4, 2)
    assert found.seconds > 0
    assert found.cpu_seconds >= 0
    assert found.passes.forward_samples == 4


def test_memory_is_the_most_that_lived_at_a_time():
    def call():
        first = torch.zeros(1000, dtype=torch.float64)
        second = first + 1
        del first
        third = torch.zeros(500, dtype=torch.float64)
        return second.sum() + third.sum()

    # 8,000 + 8,000 bytes at first, 8,000 + 4,000 later; the sums add a few bytes.
    assert 16_000 <= peak_memory(call) < 16_100


def test_what_was_there_before_is_not_counted():
    weight = torch.zeros(10_000)

    def call():
        return weight.reshape(100, 100).T[:1].sum()

    assert peak_memory(call) < 100


def test_activations_kept_for_the_backward_pass_are_counted():
    start = torch.zeros(1000, dtype=torch.float64, requires_grad=True)

    def call():
        with torch.enable_grad():
            return torch.autograd.grad(start.exp().sin().exp().sum(), start)

    assert peak_memory(call) >= 3 * 8_000


def test_a_call_that_fails_has_no_memory():
    assert peak_memory(lambda: torch.zeros(2) + torch.zeros(3)) is None
