"""Relevance that would be lost in silence is an error that names operation and module."""

import pytest
import torch
import torch.nn.functional as F
from propagation_graphs import Calls, run
from torch import nn

from attrib_plugin.errors import UnsupportedOperationError
from attrib_plugin.propagation import COMPOSITES, attnlrp, chefer2021

B, T, D = 3, 4, 6
COMPOSITE_NAMES = ["chefer2021", "attnlrp", "chefer2021_bert"]


def tokens():
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Inner(nn.Module):
    """Runs a function somewhere inside a model, so that messages have a module to name."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        return self.function(self, x)


def model(function):
    torch.manual_seed(1)
    return Calls(lambda m, x: m.deep(x), deep=Inner(function)).double().requires_grad_(False).eval()


def relevance(function, composite):
    found = run(model(function), tokens(), composite)
    return found.relevance(torch.ones_like(found.output))


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, message):
        return 2 * message


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(ctx, message):
        return 2 * message


def without_grad(m, x):
    with torch.no_grad():
        other = m.second(x)
    return m.first(x) + other


def changed_after_reading(m, x):
    hidden = m.first(x)
    other = m.second(hidden)
    hidden += other
    return hidden


def set_after_reading(m, x):
    hidden = m.first(x)
    other = m.second(hidden)
    hidden[:, 0] = 1.0
    return hidden + other


def buffer_changed(m, x):
    buffer = torch.zeros_like(x)
    buffer += m.first(x)
    return buffer


UNKNOWN = {
    "Tensor.cumsum": lambda m, x: m.first(x).cumsum(1),
    "Tensor.exp": lambda m, x: m.first(x).exp(),
    "torch.sin": lambda m, x: torch.sin(m.first(x)),
    "Tensor.pow": lambda m, x: m.first(x) ** 2,
    "Tensor.div": lambda m, x: m.first(x) / m.second(x),
    "Tensor.__rdiv__": lambda m, x: 2 / m.first(x),
    "torch.div": lambda m, x: torch.div(m.first(x), 2, rounding_mode="floor"),
    "Tensor.max": lambda m, x: m.first(x).max(1).values,
    "log_softmax": lambda m, x: F.log_softmax(m.first(x), -1),
    "glu": lambda m, x: F.glu(m.first(x)),
    "torch.index_put": lambda m, x: torch.index_put(m.first(x), (torch.tensor([0, 0]),), x[:2], accumulate=True),
    "torch.scatter": lambda m, x: torch.scatter(m.first(x), 1, torch.zeros_like(x, dtype=torch.long), x),
    "Tensor.index_add": lambda m, x: m.first(x).index_add(0, torch.tensor([0, 0]), m.second(x)[:2]),
    "Tensor.exp_": lambda m, x: m.first(x).exp_(),
    "einsum": lambda m, x: torch.einsum("btd,btd,btd->bt", m.first(x), x, x),
    "torch.addmm": lambda m, x: torch.addmm(m.first.bias, x[0], m.first.weight, alpha=2),
    "torch.view_as_complex": lambda m, x: torch.view_as_complex(m.first(x).unflatten(-1, (3, 2)).contiguous()).real,
}


@pytest.mark.parametrize("composite", COMPOSITE_NAMES)
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_operation_without_a_rule_is_refused_by_name_and_module(name, composite):
    with pytest.raises(UnsupportedOperationError, match=rf"{name} in 'deep'.*GradientRollout"):
        relevance(UNKNOWN[name], COMPOSITES[composite]())


MORE_OPERANDS = {
    "scaled_dot_product_attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, attn_mask=m.first(x) @ x.mT),
    "addmm": lambda m, x: torch.addmm(m.first(x)[0], x[0], m.first.weight),
    "clamp": lambda m, x: torch.clamp(m.first(x), min=m.second(x)),
    "layer_norm": lambda m, x: F.layer_norm(m.first(x), (D,), m.second(x)[0, 0]),
    "conv1d": lambda m, x: F.conv1d(m.first(x), x),
}


@pytest.mark.parametrize("name", MORE_OPERANDS)
def test_a_relevant_argument_that_no_rule_looks_at_is_refused(name):
    with pytest.raises(UnsupportedOperationError, match=rf"{name} in 'deep' takes more relevant tensors"):
        relevance(MORE_OPERANDS[name], chefer2021())


def test_a_relevant_bias_that_is_the_input_as_well_is_refused():
    def residual(m, x):
        hidden = m.first(x).flatten(0, 1)
        return torch.addmm(hidden, hidden, m.second.weight)

    with pytest.raises(UnsupportedOperationError, match="addmm in 'deep' takes more relevant tensors"):
        relevance(residual, attnlrp())


CUT_OFF = {
    "detach": lambda m, x: m.first(x) + m.second(x).detach(),
    "detach, moved and scaled": lambda m, x: m.first(x) - 2 * m.second(x.detach()).flip(0),
    "data": lambda m, x: m.first(x) * m.second(x).data,
    "no_grad": without_grad,
    "custom function": lambda m, x: m.second(Doubling.apply(m.first(x))),
    "set item": lambda m, x: m.first(x).clone().index_copy_(1, torch.tensor([0]), x.detach()[:, :1]),
}


@pytest.mark.parametrize("composite", COMPOSITE_NAMES)
@pytest.mark.parametrize("name", CUT_OFF)
def test_a_value_whose_relevance_was_cut_off_must_not_come_back(name, composite):
    with pytest.raises(UnsupportedOperationError, match=r"in 'deep' takes a value whose relevance was cut off"):
        relevance(CUT_OFF[name], COMPOSITES[composite]())


def test_a_value_may_be_cut_off_to_be_looked_at():
    seen = []

    def logging(m, x):
        hidden = m.first(x)
        seen.append((hidden.detach() * 2).mean())
        if hidden.detach().isnan().any() or float(hidden.detach().max()) > 1e9:
            raise ValueError("cannot be")
        return m.second(hidden)

    found = relevance(logging, chefer2021())

    assert torch.equal(found, relevance(lambda m, x: m.second(m.first(x)), chefer2021()))
    assert len(seen) == 1


def test_zeros_like_a_relevant_tensor_are_no_values_of_it():
    def padded(m, x):
        with torch.no_grad():
            zeros = torch.zeros_like(x)
        return torch.cat([m.first(x), zeros.detach()], 1)

    assert torch.isfinite(relevance(padded, chefer2021())).all()


def test_an_operation_that_no_session_sees_is_refused():
    with pytest.raises(UnsupportedOperationError, match=r"'OpaqueBackward' ran in 'Calls' where relevance cannot see"):
        relevance(lambda m, x: m.second(Opaque.apply(m.first(x))), chefer2021())


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*")
def test_a_scripted_function_is_refused():
    def double(x):
        return x * 2.0 + x

    double.__annotations__ = {"x": torch.Tensor}
    scripted = torch.jit.trace(double, torch.ones(2, 2).double())

    with pytest.raises(UnsupportedOperationError, match=r"ran in 'Calls' where relevance cannot see"):
        relevance(lambda m, x: m.second(scripted(m.first(x))), attnlrp())


@pytest.mark.parametrize("composite", COMPOSITE_NAMES)
@pytest.mark.parametrize("function", [changed_after_reading, set_after_reading])
def test_a_tensor_changed_in_place_after_it_was_read_is_refused(function, composite):
    with pytest.raises(UnsupportedOperationError, match="changed in place what a linear operation in 'deep' had read"):
        relevance(function, COMPOSITES[composite]())


def test_a_buffer_that_gains_relevance_by_a_sum_in_place_is_refused():
    with pytest.raises(UnsupportedOperationError, match="deep changes a tensor in place that had no relevance before"):
        relevance(buffer_changed, attnlrp())


def test_a_view_changed_in_place_is_refused_by_composites_that_follow_uses():
    def changed(m, x):
        hidden = m.first(x)
        hidden[:, 1:] += 1
        return hidden

    with pytest.raises(UnsupportedOperationError, match="changes a view of a tensor in place, which the composite"):
        relevance(changed, COMPOSITES["chefer2021_vit"]())


def test_writing_into_a_given_tensor_is_refused():
    def written(m, x):
        return torch.add(m.first(x), 1, out=torch.empty(B, T, D).double())

    with pytest.raises(UnsupportedOperationError, match=r"torch.add in 'deep' writes into out="):
        relevance(written, chefer2021())


class GatedRMSNorm(nn.Module):
    """One operation by its name, but with two relevant inputs."""

    def forward(self, x, gate):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gate


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_whole_module_with_a_second_relevant_input_is_refused(by_keyword):
    def gated(m, x):
        return m.norm(m.first(x), gate=m.second(x)) if by_keyword else m.norm(m.first(x), m.second(x))

    module = model(gated)
    module.deep.norm = GatedRMSNorm()

    with pytest.raises(UnsupportedOperationError, match=r"'deep.norm' is one operation for relevance, but takes more"):
        run(module, tokens(), attnlrp())


def test_samples_that_cannot_be_told_apart_are_refused():
    def packed(m, x):
        rows = x.flatten(0, 1)[:-1]  # as unpadded models do: eleven rows of three samples
        return rows + m.first(rows)

    with pytest.raises(UnsupportedOperationError, match=r"\(11, 6\) does not show which of its rows belong"):
        relevance(packed, chefer2021())
