"""Every kind of operation on a tiny module: the same output, the same gradient, and rules against known answers."""

import pytest
import torch
import torch.nn.functional as F
from propagation_graphs import Calls, OwnLayerNorm, OwnRMSNorm, run
from torch import nn
from torch.testing import assert_close

from attrib_plugin.propagation import (
    COMPOSITES,
    Composite,
    Epsilon,
)

B, T, D, H = 3, 4, 6, 2
TIGHT = {"rtol": 1e-10, "atol": 1e-11}


def tokens(seed=0, shape=(B, T, D)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(function, **parts):
    torch.manual_seed(1)
    layers = {"first": nn.Linear(D, D), "second": nn.Linear(D, D), **parts}
    return Calls(function, **layers).double().requires_grad_(False)


def add_in_place(m, x):
    hidden = m.first(x)
    hidden += m.second(x)
    return hidden * 3


def several_in_place(m, x):
    hidden = m.first(x)
    hidden *= 2
    hidden -= m.second(x)
    hidden /= 3
    hidden.add_(0.5).neg_()
    return m.second(hidden)


def gate_in_place(m, x):
    hidden = m.first(x)
    hidden *= m.second(x)
    return hidden


def relu_in_place(m, x):
    hidden = m.first(x)
    F.relu(hidden, inplace=True)  # the result is not used, the changed tensor is
    return m.second(hidden)


def module_in_place(m, x):
    hidden = m.first(x)
    m.act(hidden)
    return m.second(hidden)


def add_to_view_in_place(m, x):
    hidden = m.first(x)
    hidden[:, 1:] += m.second(x)[:, 1:]
    return m.second(hidden)


def set_item(m, x):
    hidden, other = m.first(x), m.second(x)
    hidden[..., 0] = other[..., 1]
    return m.second(hidden)


def set_item_to_a_number(m, x):
    hidden = m.first(x)
    hidden[:, 0] = 0.0
    return m.second(hidden)


def fill_a_buffer(m, x):
    buffer = torch.zeros_like(x)
    buffer[:, :2], buffer[:, 2:] = m.first(x[:, :2]), m.second(x[:, 2:])
    return m.second(buffer)


def masked_fill_in_place(m, x):
    hidden = m.first(x)
    hidden.masked_fill_(torch.arange(D) % 2 == 0, 0.0)
    return m.second(hidden)


def eager_attention(m, x):
    hidden = m.first(x)
    mask = torch.full((T, T), -torch.inf, dtype=x.dtype).triu(1)
    return (hidden @ m.second(x).mT / 2 + mask).softmax(-1) @ hidden


def masked_attention(m, x):
    hidden = m.first(x)
    scores = (hidden @ m.second(x).mT).masked_fill(torch.ones(T, T).triu(1) > 0, -torch.inf)
    return F.softmax(scores, dim=-1) @ hidden


def split_heads(x):
    return x.view(B, T, H, D // H).transpose(1, 2)


def fused_attention(m, x):
    return F.scaled_dot_product_attention(split_heads(m.first(x)), split_heads(m.second(x)), split_heads(x)).flatten(2)


class GPT2Linear(nn.Module):
    """As transformers' ``Conv1D``."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, D), self.weight).view(B, T, 5)


def attention_module(batch_first=True):
    return nn.MultiheadAttention(D, H, batch_first=batch_first)


OPERATIONS = {
    "linear": (lambda m, x: m.first(x), {}),
    "linear without bias": (lambda m, x: F.linear(x, m.first.weight), {}),
    "linear with a relevant weight": (lambda m, x: F.linear(m.first(x)[0], m.second(x)[1]) + x[:, :, :1], {}),
    "addmm": (lambda m, x: m.conv1d(x), {"conv1d": GPT2Linear()}),
    "conv2d": (lambda m, x: m.conv(x.view(B, 1, T, D)), {"conv": nn.Conv2d(1, 2, 2, padding=1)}),
    "conv1d": (lambda m, x: m.conv(x), {"conv": nn.Conv1d(T, 5, 3, padding="same", groups=1)}),
    "matmul with a parameter": (lambda m, x: x @ m.first.weight.T, {}),
    "parameter times activations": (lambda m, x: m.first.weight @ x.mT, {}),
    "product": (lambda m, x: m.first(x) @ m.second(x).mT, {}),
    "bmm by keyword": (lambda m, x: torch.bmm(m.first(x), mat2=m.second(x).mT), {}),
    "einsum": (lambda m, x: torch.einsum("btd,bsd->bst", m.first(x), m.second(x)), {}),
    "sum": (lambda m, x: m.first(x) + m.second(x), {}),
    "sum with alpha": (lambda m, x: torch.add(m.first(x), m.second(x), alpha=0.7), {}),
    "sum by keyword": (lambda m, x: torch.add(input=m.first(x), other=m.second(x)), {}),
    "sum of broadcast operands": (lambda m, x: m.first(x)[:, :1] + m.second(x), {}),
    "sum with itself": (lambda m, x: (y := m.first(x)) + y, {}),
    "difference": (lambda m, x: m.first(x) - m.second(x), {}),
    "difference with alpha": (lambda m, x: torch.sub(m.first(x), m.second(x), alpha=0.5), {}),
    "reversed difference": (lambda m, x: torch.rsub(m.first(x), m.second(x), alpha=2), {}),
    "number minus activations": (lambda m, x: 3 - m.first(x), {}),
    "sum with a constant": (lambda m, x: m.first.bias + m.second(x), {}),
    "sum with a number": (lambda m, x: m.first(x) + 1e-3, {}),
    "built-in sum": (lambda m, x: sum([m.first(x), m.second(x)]), {}),
    "times a number": (lambda m, x: 1.7 * m.first(x), {}),
    "times a constant": (lambda m, x: m.first(x) * m.second.bias, {}),
    "times by keyword": (lambda m, x: torch.mul(input=m.first(x), other=2.0), {}),
    "quotient": (lambda m, x: m.first(x) / m.second.weight[0], {}),
    "negative": (lambda m, x: -m.first(x), {}),
    "gate": (lambda m, x: m.first(x) * m.second(x), {}),
    "gate with itself": (lambda m, x: (y := m.first(x)) * y, {}),
    "gelu": (lambda m, x: F.gelu(m.first(x), approximate="tanh"), {}),
    "relu": (lambda m, x: F.relu(m.first(x)), {}),
    "silu": (lambda m, x: m.act(m.first(x)), {"act": nn.SiLU()}),
    "tanh": (lambda m, x: m.first(x).tanh(), {}),
    "clamp": (lambda m, x: m.first(x).clamp(min=-0.2, max=0.3), {}),
    "layer norm": (lambda m, x: m.norm(x), {"norm": nn.LayerNorm(D)}),
    "layer norm without weight": (lambda m, x: F.layer_norm(m.first(x), (T, D)), {}),
    "rms norm": (lambda m, x: m.norm(x), {"norm": nn.RMSNorm(D)}),
    "own rms norm": (lambda m, x: m.norm(x), {"norm": OwnRMSNorm()}),
    "own layer norm": (lambda m, x: m.norm(x), {"norm": OwnLayerNorm()}),
    "batch norm": (lambda m, x: m.norm(x), {"norm": nn.BatchNorm1d(T)}),
    "normalize": (lambda m, x: F.normalize(m.first(x), dim=-1), {}),
    "softmax": (lambda m, x: m.first(x).softmax(1), {}),
    "mean": (lambda m, x: m.first(x).mean(1), {}),
    "mean with axes kept": (lambda m, x: torch.mean(m.first(x), dim=(1, 2), keepdim=True), {}),
    "mean of everything but": (lambda m, x: m.first(x).mean(axis=-1), {}),
    "average pool": (lambda m, x: F.avg_pool1d(m.first(x), 2), {}),
    "adaptive average pool": (lambda m, x: m.pool(m.first(x)), {"pool": nn.AdaptiveAvgPool1d(2)}),
    "total": (lambda m, x: m.first(x).sum(1), {}),
    "pick": (lambda m, x: m.first(x)[:, 0], {}),
    "moves": (lambda m, x: torch.cat(m.first(x).chunk(2, -1)[::-1], -1).mT.flip(1).repeat_interleave(2, 1), {}),
    "where": (lambda m, x: torch.where(torch.arange(D) > 2, m.first(x), m.second(x)), {}),
    "masked scatter": (lambda m, x: m.first(x).masked_scatter(torch.arange(D) > 2, m.second(x)), {}),
    "max pool": (lambda m, x: F.max_pool1d(m.first(x), 2), {}),
    "in place": (add_in_place, {}),
    "several in place": (several_in_place, {}),
    "gate in place": (gate_in_place, {}),
    "relu in place": (relu_in_place, {}),
    "module in place": (module_in_place, {"act": nn.ReLU(inplace=True)}),
    "view in place": (add_to_view_in_place, {}),
    "set item": (set_item, {}),
    "set item to a number": (set_item_to_a_number, {}),
    "buffer filled": (fill_a_buffer, {}),
    "masked fill in place": (masked_fill_in_place, {}),
    "eager attention": (eager_attention, {}),
    "masked attention": (masked_attention, {}),
    "fused attention": (fused_attention, {}),
    "causal attention": (lambda m, x: F.scaled_dot_product_attention(m.first(x), x, x, is_causal=True), {}),
    "aten attention": (lambda m, x: torch.ops.aten.scaled_dot_product_attention(m.first(x), x, x), {}),
    "multi-head attention": (lambda m, x: m.attention(x, x, x)[0], {"attention": attention_module()}),
}
CAN_CHANGE_VIEWS = {name for name, make in COMPOSITES.items() if make().fanout is None}


@pytest.fixture(params=OPERATIONS)
def operation(request):
    function, parts = OPERATIONS[request.param]
    return request.param, model(function, **parts)


@pytest.mark.parametrize("composite", ["chefer2021", "attnlrp", "chefer2021_bert", "cplrp"])
def test_output_and_gradient_are_those_of_the_model_alone(operation, composite):
    name, module = operation
    if name == "view in place" and composite not in CAN_CHANGE_VIEWS:
        pytest.skip("refused, see test_losses")
    inputs = tokens()
    leaf = inputs.clone().requires_grad_()
    plain = module.eval()(leaf)
    message = torch.randn(plain.shape, dtype=plain.dtype)

    found = run(module, inputs, COMPOSITES[composite]())

    assert torch.equal(found.output, plain)
    assert_close(found.gradient(message), torch.autograd.grad(plain, leaf, message)[0], rtol=1e-12, atol=1e-13)
    assert torch.isfinite(found.relevance(message)).all()


GRADIENT_TIMES_INPUT = Composite(
    "gradient times input",
    {
        **dict.fromkeys(("linear", "convolution", "product", "attention", "softmax", "scaling", "gate"), Epsilon()),
        **dict.fromkeys(("sum", "norm", "batch norm", "mean", "total", "activation", "pick"), Epsilon()),
    },
    start="value",
)


def test_rules_that_are_input_times_gradient_give_the_input_times_the_gradient(operation):
    _, module = operation
    inputs = tokens()
    leaf = inputs.clone().requires_grad_()
    plain = module.eval()(leaf)

    found = run(module, inputs, GRADIENT_TIMES_INPUT)

    # R = z at the output makes the message of every operation its gradient, wherever no share is lost.
    gradient = torch.autograd.grad(plain, leaf, torch.ones_like(plain))[0]
    assert_close(found.relevance(plain.detach()), inputs * gradient, rtol=1e-8, atol=1e-9)
