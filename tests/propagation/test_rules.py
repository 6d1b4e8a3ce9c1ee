"""What rules make of an operation, against answers that are known or computed by loops."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from propagation_graphs import Calls, OwnLayerNorm, OwnRMSNorm, run
from torch import nn
from torch.testing import assert_close

from attrib_plugin.functional.lrp import Stabilizer
from attrib_plugin.propagation import (
    COMPOSITES,
    AlphaBeta,
    Block,
    Composite,
    Epsilon,
    Fanout,
    Gamma,
    Identity,
    Magnitude,
    PixelBox,
    ProductAttention,
    Routed,
    SharedAttention,
    Summands,
    ZPlus,
    attnlrp,
    chefer2021,
)

B, T, D, H = 3, 4, 6, 2
TIGHT = {"rtol": 1e-10, "atol": 1e-11}


def tokens(seed=0, shape=(B, T, D)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(function, **parts):
    torch.manual_seed(1)
    layers = {"first": nn.Linear(D, D), "second": nn.Linear(D, D), **parts}
    return Calls(function, **layers).double().requires_grad_(False)


def split_heads(x):
    return x.view(B, T, H, D // H).transpose(1, 2)


# ------------------------------------------------------------------------------------ rules with known answers


def relevance_of(function, composite, at_output=None, **parts):
    module = model(function, **parts)
    found = run(module, tokens(), composite)
    message = tokens(5, found.output.shape) if at_output is None else at_output
    return module, message, found.relevance(message)


def rules(**by_kind):
    return Composite("test", {"linear": Identity(), "activation": Identity(), "sum": Identity(), **by_kind})


def test_identity_shares_relevance_equally_between_the_factors_of_a_gate():
    _, message, found = relevance_of(lambda m, x: x * x.flip(0), rules(gate=Identity()))

    assert_close(found, (message + message.flip(0)) / 2, **TIGHT)


def test_block_lets_nothing_pass():
    _, _, found = relevance_of(lambda m, x: x.tanh(), rules(activation=Block()))

    assert not found.any()


LINEAR_RULES = {
    "epsilon": Epsilon(),
    "gamma": Gamma(0.3),
    "alpha beta": AlphaBeta(2.0, 1.0),
    "z plus": ZPlus(),
    "split z plus": ZPlus(joint=False),
}


@pytest.mark.parametrize("name", LINEAR_RULES)
def test_a_linear_layer_gives_rows_without_relevance_nothing_and_the_others_what_they_have_alone(name):
    layer, message = model(lambda m, x: m.first(x)), tokens(5)
    message[:, 1:] = 0
    message[1, 2] = 1  # so that rows are no regular pattern

    found = run(layer, tokens(), rules(linear=LINEAR_RULES[name]))

    for sample in range(B):
        for token in range(T):
            alone = run(layer, tokens()[sample, token][None, None], rules(linear=LINEAR_RULES[name]))
            expected = alone.relevance(message[sample, token][None, None])[0, 0]
            assert_close(found.relevance(message)[sample, token], expected, **TIGHT)


def test_rows_without_a_gradient_have_none_below_a_linear_layer():
    layer, message = model(lambda m, x: m.first(x)), tokens(5)
    message[:, 1:] = 0

    found = run(layer, tokens(), rules()).gradient(message)

    assert_close(found, message @ layer.first.weight, **TIGHT)


def test_only_rows_that_have_relevance_are_computed():
    seen = []

    def spying(step, relevance):
        rows = step.few_rows(relevance)
        seen.append(None if rows is None else rows.tolist())
        return ZPlus()(step, relevance)

    found = run(model(lambda m, x: m.first(x)), tokens(), rules(linear=spying))
    few, many = torch.zeros(B, T, D).double(), tokens(5)
    few[0, 2], few[2, 1] = 1, 1
    for message in (few, many):
        found.relevance(message)

    assert seen == [[2, 9], None]


def test_a_sum_of_broadcast_operands_gives_the_smaller_one_all_it_received():
    _, message, found = relevance_of(
        lambda m, x: x[:, :1, :] + 0 * x, Composite("t", {"sum": Summands(), "scaling": Identity()})
    )

    assert_close(found[:, 0], message.sum(1), **TIGHT)
    assert_close(found[:, 1:], torch.zeros_like(found[:, 1:]), **TIGHT)


def test_a_difference_counts_its_second_operand_negatively():
    _, message, found = relevance_of(lambda m, x: x - x.roll(1, 0), rules(sum=Summands()))

    first = tokens()
    share = message / (first - first.roll(1, 0))
    assert_close(found, first * share + (-first.roll(1, 0) * share).roll(-1, 0), **TIGHT)


SUMS = {
    "difference": lambda m, x: x - m.first(x),
    "sum with alpha": lambda m, x: torch.add(x, m.first(x), alpha=0.7),
    "difference with alpha": lambda m, x: torch.sub(x, m.first(x), alpha=0.7),
    "reversed difference with alpha": lambda m, x: torch.rsub(x, m.first(x), alpha=0.7),
    "number minus activations": lambda m, x: 3 - x,
    "number minus twice the activations": lambda m, x: torch.rsub(x, 3.0, alpha=2),
    "constant tokens": lambda m, x: torch.sub(tokens(8), x, alpha=0.3),
}


@pytest.mark.parametrize("name", SUMS)
def test_summands_are_what_the_gradient_of_the_sum_says(name):
    proportional, by_gradient = (
        relevance_of(SUMS[name], Composite("t", {"sum": rule, "linear": Epsilon()}))[2]
        for rule in (Summands(), Epsilon())
    )

    assert_close(proportional, by_gradient, rtol=1e-8, atol=1e-9)


def test_a_constant_keeps_its_share_of_a_sum():
    _, message, found = relevance_of(lambda m, x: x + 2.0, rules(sum=Summands()))

    assert_close(found, tokens() * message / (tokens() + 2), **TIGHT)


@pytest.mark.parametrize("rule", [Identity(), Routed()])
def test_a_constant_factor_passes_relevance_on(rule):
    _, message, found = relevance_of(lambda m, x: x.transpose(1, 2), rules())

    assert_close(found, message.transpose(1, 2), **TIGHT)


def test_a_fixed_scale_norm_takes_the_mean_off_and_leaves_the_bias_its_share():
    module, message, found = relevance_of(lambda m, x: m.norm(x), attnlrp(), norm=shifted_norm())

    inputs, norm = tokens(), module.norm
    scale = (inputs.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
    share = message / norm(inputs) * norm.weight * scale
    expected = torch.zeros_like(inputs)
    for i in range(D):  # z_j = w_j s (x_j - mean x) + b_j with s held constant
        for j in range(D):
            expected[..., i] += inputs[..., i] * ((i == j) - 1 / D) * share[..., j]
    assert_close(found, expected, **TIGHT)


def shifted_norm():
    norm = nn.LayerNorm(D)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def test_norms_written_out_are_followed_as_one_operation():
    torch.manual_seed(4)
    own, torchs = OwnLayerNorm(), nn.LayerNorm(D, eps=1e-6)
    torchs.load_state_dict(own.state_dict())

    _, _, found = relevance_of(lambda m, x: m.norm(x), attnlrp(), norm=own)

    assert_close(found, relevance_of(lambda m, x: m.norm(x), attnlrp(), norm=torchs)[2], **TIGHT)
    _, message, found = relevance_of(lambda m, x: m.norm(x), attnlrp(), norm=OwnRMSNorm())
    assert_close(found, message, **TIGHT)


@pytest.mark.parametrize(
    "rule", [Epsilon(), ZPlus(), AlphaBeta(), Gamma(0.3)], ids=["epsilon", "z_plus", "alpha_beta", "gamma"]
)
def test_a_linear_layer_is_the_same_however_it_is_called(rule):
    composite = rules(linear=rule, scaling=Identity())
    ways = {
        "linear": lambda m, x: F.linear(x, m.first.weight),
        "matmul": lambda m, x: x @ m.first.weight.T,
        "transposed": lambda m, x: (m.first.weight @ x.mT).mT,
        "einsum": lambda m, x: torch.einsum("btd,od->bto", x, m.first.weight),
        "addmm": lambda m, x: torch.addmm(torch.zeros(D).double(), x.flatten(0, 1), m.first.weight.T).view(B, T, D),
    }

    found = {name: relevance_of(function, composite)[2] for name, function in ways.items()}

    for name in ways:
        assert_close(found[name], found["linear"], rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_softmax_attention_is_the_same_fused_and_written_out():
    def written_out(m, x):
        query, key, value = (split_heads(one) for one in (m.first(x), m.second(x), x))
        return ((query @ key.mT * (D // H) ** -0.5).softmax(-1) @ value).transpose(1, 2).flatten(2)

    def fused(m, x):
        query, key, value = (split_heads(one) for one in (m.first(x), m.second(x), x))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    for composite in (chefer2021(), attnlrp(), COMPOSITES["cplrp"]()):
        assert_close(relevance_of(fused, composite)[2], relevance_of(written_out, composite)[2], rtol=1e-6, atol=1e-7)


def test_attention_rules_give_a_constant_no_share():
    composite = rules(attention=ProductAttention(), scaling=Identity())
    constant = tokens(8)

    _, message, found = relevance_of(lambda m, x: F.scaled_dot_product_attention(x, constant, constant), composite)

    assert_close(found.sum((1, 2)), message.sum((1, 2)), **TIGHT)
    shared = rules(attention=SharedAttention(constant_probabilities=True))
    assert not relevance_of(lambda m, x: F.scaled_dot_product_attention(x, constant, constant), shared)[2].any()


def test_a_mean_is_shared_out_by_size_whether_its_axes_are_kept_or_not():
    composite = rules(mean=Magnitude())
    for keep in (False, True):
        _, message, found = relevance_of(lambda m, x, keep=keep: x.mean(1, keepdim=keep), composite)
        sizes = tokens().abs()
        received = message if keep else message[:, None]
        assert_close(found, received * sizes / sizes.sum(1, keepdim=True), **TIGHT)


def test_only_the_convolution_that_reads_pixels_has_the_rule_of_pixels():
    kinds = []

    def spying(step, relevance):
        kinds.append(step.kind)
        return Epsilon()(step, relevance)

    composite = chefer2021().with_rules(convolution=spying, pixel_convolution=spying)
    convolutions = {"low": nn.Conv2d(1, 2, 2), "high": nn.Conv2d(2, 2, 2)}

    relevance_of(lambda m, x: m.high(m.low((x[:, None] - 0.5) / 0.2).relu()), composite, **convolutions)

    assert kinds == ["convolution", "pixel convolution"]


def test_a_convolution_of_pixels_beside_features_has_the_rule_of_convolutions():
    kinds = []

    def spying(step, relevance):
        kinds.append(step.kind)
        return Epsilon()(step, relevance)

    composite = chefer2021().with_rules(convolution=spying, pixel_convolution=spying)
    convolutions = {"low": nn.Conv2d(1, 2, 1), "high": nn.Conv2d(3, 2, 1)}

    def dense(m, x):
        pixels = x[:, None]
        return m.high(torch.cat([pixels, m.low(pixels)], dim=1))

    relevance_of(dense, composite, **convolutions)

    assert sorted(kinds) == ["convolution", "pixel convolution"]


def test_a_convolution_above_the_pixels_shares_relevance_by_positive_contributions_in_chefer2021():
    convolution = nn.Conv2d(1, 3, 2).double()

    _, message, found = relevance_of(lambda m, x: m.conv(x[:, None].tanh()), chefer2021(), conv=convolution)
    _, _, expected = relevance_of(
        lambda m, x: m.conv(x[:, None].tanh()), rules(convolution=ZPlus(Stabilizer(1e-9))), message, conv=convolution
    )

    assert_close(found, expected, **TIGHT)


def test_pixels_lie_between_the_lowest_and_highest_value_of_their_own_image():
    composite = Composite("box", {"convolution": PixelBox()})
    convolution = nn.Conv2d(1, 2, 2, bias=False)

    module, message, found = relevance_of(lambda m, x: m.conv(x[:, None]), composite, conv=convolution)

    images, kernel = tokens()[:, None], module.conv.weight
    expected = torch.zeros_like(images)
    for b in range(B):
        low, high = images[b].min(), images[b].max()
        for o in range(2):
            for i in range(T - 1):
                for j in range(D - 1):
                    part, w = images[b, 0, i : i + 2, j : j + 2], kernel[o, 0]
                    terms = part * w - low * w.clamp(min=0) - high * w.clamp(max=0)
                    expected[b, 0, i : i + 2, j : j + 2] += terms / terms.sum() * message[b, o, i, j]
    assert_close(found[:, None], expected, **TIGHT)


@pytest.mark.parametrize("among_linear", [False, True])
def test_uses_of_a_tensor_are_damped_where_a_composite_has_a_rule_for_them(among_linear):
    divide = Stabilizer(epsilon=1e-2, signed=False)
    plain = rules(gate=Identity(), linear=Identity())
    composite = replace(plain, fanout=Fanout(divide, among_linear=among_linear))

    def used_twice(m, x):
        hidden = x.tanh()
        return hidden * hidden

    def used_by_linear_layers(m, x):
        hidden = x.tanh()
        return m.first(hidden) * m.second(hidden)

    _, message, found = relevance_of(used_twice, composite)
    assert_close(found, divide.damp(message, tokens().tanh()), **TIGHT)
    assert_close(relevance_of(used_twice, plain)[2], message, **TIGHT)
    found = relevance_of(used_by_linear_layers, composite)[2]
    assert_close(found, divide.damp(message, tokens().tanh()) if among_linear else message, **TIGHT)
