"""Rules for linear maps against slow loops written from the papers."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional.lrp import (
    EXACT,
    LinearMap,
    Stabilizer,
    alpha_beta_rule,
    box_rule,
    epsilon_rule,
    gamma_rule,
    split_z_plus_rule,
    z_plus_rule,
)

B, N_IN, N_OUT = 3, 5, 4
TIGHT = {"rtol": 1e-11, "atol": 1e-12}
SMALL = Stabilizer(epsilon=1e-3)
UNSIGNED = Stabilizer(epsilon=1e-3, signed=False)
quickly = settings(max_examples=25, deadline=None, derandomize=True)


def case(seed=0, bias=True):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, N_IN), (N_OUT, N_IN), (N_OUT,), (B, N_OUT))
    inputs, weight, shift, relevance = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return inputs, weight, shift if bias else torch.zeros_like(shift), relevance


def divided(numerator, denominator, divide):
    if denominator == 0:
        return 0.0
    negative = divide.signed and denominator < 0
    return numerator / (denominator + (-divide.epsilon if negative else divide.epsilon))


def slow(inputs, weight, relevance, numerator, denominator, divide=EXACT):  # noqa: PLR0917 - a formula
    """R_i = Σ_j n_ij R_j / d_j, with n and d as functions of a sample's contributions."""
    found = torch.zeros(B, N_IN, dtype=torch.float64)
    for sample in range(B):
        for j in range(N_OUT):
            terms = [float(inputs[sample, i] * weight[j, i]) for i in range(N_IN)]
            share = divided(float(relevance[sample, j]), denominator(terms, sample, j), divide)
            for i in range(N_IN):
                found[sample, i] += numerator(terms, i, sample, j) * share
    return found


def positive(terms):
    return sum(max(term, 0.0) for term in terms)


# --------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("divide", [EXACT, SMALL, UNSIGNED])
def test_epsilon_rule_agrees_with_slow_loops(divide):
    inputs, weight, bias, relevance = case()

    found = epsilon_rule(inputs, LinearMap.dense(weight), relevance, inputs @ weight.T + bias, divide=divide)

    expected = slow(
        inputs,
        weight,
        relevance,
        lambda terms, i, *_: terms[i],
        lambda terms, _, j: sum(terms) + float(bias[j]),
        divide,
    )
    assert_close(found, expected, **TIGHT)


@pytest.mark.parametrize("divide", [EXACT, SMALL, UNSIGNED])
@pytest.mark.parametrize("known", ["nothing", "output", "output with bias"])
def test_z_plus_rule_agrees_with_slow_loops(divide, known):
    inputs, weight, bias, relevance = case()
    given_output = {
        "nothing": {},
        "output": {"output": inputs @ weight.T},
        "output with bias": {"output": inputs @ weight.T + bias, "bias": bias},
    }[known]

    found = z_plus_rule(inputs, LinearMap.dense(weight), relevance, divide=divide, **given_output)

    expected = slow(
        inputs, weight, relevance, lambda terms, i, *_: max(terms[i], 0.0), lambda terms, *_: positive(terms), divide
    )
    assert_close(found, expected, **TIGHT)


def test_positive_contributions_are_half_of_the_product_and_the_product_of_sizes():
    inputs, weight, _, _ = case()

    found = (inputs @ weight.T + inputs.abs() @ weight.abs().T) / 2

    parts = inputs.clamp(min=0) @ weight.clamp(min=0).T + inputs.clamp(max=0) @ weight.clamp(max=0).T
    assert_close(found, parts, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_z_plus_rule_takes_no_rounding_of_the_bias_for_a_contribution(dtype):
    # One input, so that every output has either a positive contribution or none at all.
    inputs, weight = torch.rand(6, 1, dtype=dtype) + 0.1, torch.linspace(-1, 1, 9, dtype=dtype)[:, None]
    bias, relevance = torch.linspace(-3, 7, 9, dtype=dtype), torch.ones(6, 9, dtype=dtype)

    output = F.linear(inputs, weight, bias)
    found = z_plus_rule(inputs, LinearMap.dense(weight), relevance, output=output, bias=bias)

    assert_close(found, torch.full_like(inputs, 4.0), rtol=1e-4, atol=0)  # four of the nine weights are positive


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_z_plus_rule_takes_no_rounding_for_a_contribution_where_all_are_negative(dtype):
    # A product in another order rounds differently, and what is left would be divided by next to nothing.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(50, 300, generator=generator, dtype=dtype)
    weight = -torch.rand(20, 300, generator=generator, dtype=dtype)
    output, relevance = inputs.flip(1) @ weight.flip(1).T, torch.ones(50, 20, dtype=dtype)

    found = z_plus_rule(inputs, LinearMap.dense(weight), relevance, divide=Stabilizer(1e-9), output=output)

    assert not found.any()


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 1.0), (1.0, 0.0), (1.5, 0.5)])
def test_alpha_beta_rule_agrees_with_slow_loops(alpha, beta):
    inputs, weight, _, relevance = case()

    found = alpha_beta_rule(inputs, LinearMap.dense(weight), relevance, alpha=alpha, beta=beta)

    plus = slow(inputs, weight, relevance, lambda terms, i, *_: max(terms[i], 0.0), lambda terms, *_: positive(terms))
    minus = slow(
        inputs,
        weight,
        relevance,
        lambda terms, i, *_: min(terms[i], 0.0),
        lambda terms, *_: sum(min(term, 0.0) for term in terms),
    )
    assert_close(found, alpha * plus - beta * minus, **TIGHT)


@pytest.mark.parametrize("divide", [EXACT, UNSIGNED])
def test_split_rule_normalises_products_of_positive_and_of_negative_factors_apart(divide):
    inputs, weight, _, relevance = case()

    found = split_z_plus_rule(inputs, LinearMap.dense(weight), relevance, divide=divide)

    expected = torch.zeros(B, N_IN, dtype=torch.float64)
    for sign in (1, -1):

        def both(i, sample, j, sign=sign):
            factors = float(inputs[sample, i]) * sign, float(weight[j, i]) * sign
            return factors[0] * factors[1] if min(factors) > 0 else 0.0

        expected += slow(
            inputs,
            weight,
            relevance,
            lambda terms, i, sample, j: both(i, sample, j),
            lambda terms, sample, j: sum(both(i, sample, j) for i in range(N_IN)),
            divide,
        )
    assert_close(found, expected, **TIGHT)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 10.0])
@pytest.mark.parametrize("divide", [EXACT, SMALL])
def test_gamma_rule_agrees_with_slow_loops(gamma, divide):
    inputs, weight, bias, relevance = case()
    output = inputs @ weight.T + bias

    found = gamma_rule(inputs, LinearMap.dense(weight), relevance, output, gamma=gamma, divide=divide)

    def weighted(term, sample, j):
        return term * (1 + gamma * (term * float(output[sample, j]) > 0))

    expected = slow(
        inputs,
        weight,
        relevance,
        lambda terms, i, sample, j: weighted(terms[i], sample, j),
        lambda terms, sample, j: sum(weighted(term, sample, j) for term in [*terms, float(bias[j])]),
        divide,
    )
    assert_close(found, expected, **TIGHT)


def test_gamma_rule_of_positive_inputs_and_outputs_is_that_of_the_paper():
    # Montavon et al. 2019: R_i = Σ_j x_i (w_ij + g w⁺_ij) / Σ_i x_i (w_ij + g w⁺_ij) R_j with gamma g.
    inputs, weight, _, relevance = case()
    inputs, weight = inputs.abs(), weight + 1.5

    output = inputs @ weight.T
    found = gamma_rule(inputs, LinearMap.dense(weight), relevance, output, gamma=0.3)

    favoured = weight + 0.3 * weight.clamp(min=0)
    assert (output > 0).all()
    assert_close(found, inputs * ((relevance / (inputs @ favoured.T)) @ favoured), **TIGHT)


@pytest.mark.parametrize("divide", [EXACT, SMALL])
def test_box_rule_agrees_with_slow_loops(divide):
    inputs, weight, _, relevance = case()
    low, high = inputs.amin(1, keepdim=True) - 0.1, inputs.amax(1, keepdim=True) + 0.2

    found = box_rule(inputs, LinearMap.dense(weight), relevance, low, high, divide=divide)

    def term(i, sample, j):
        w = float(weight[j, i])
        return float(inputs[sample, i]) * w - float(low[sample, 0]) * max(w, 0.0) - float(high[sample, 0]) * min(w, 0.0)

    expected = slow(
        inputs,
        weight,
        relevance,
        lambda terms, i, sample, j: term(i, sample, j),
        lambda terms, sample, j: sum(term(i, sample, j) for i in range(N_IN)),
        divide,
    )
    assert_close(found, expected, **TIGHT)


def test_a_convolution_is_a_linear_map_as_well():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    kernel = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    convolution = LinearMap(
        kernel,
        lambda x, w: F.conv2d(x, w, padding=1),
        lambda message, w: F.conv_transpose2d(message, w, padding=1),
    )
    relevance = torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64)

    found = z_plus_rule(images, convolution, relevance)

    # The same convolution, as a dense map over all pixels.
    unit = torch.eye(60, dtype=torch.float64).reshape(60, 3, 5, 4)
    dense = F.conv2d(unit, kernel, padding=1).flatten(1).T
    expected = z_plus_rule(images.flatten(1), LinearMap.dense(dense), relevance.flatten(1))
    assert_close(found.flatten(1), expected, **TIGHT)


# ------------------------------------------------------------------------------------------- what must hold

RULES = {
    "epsilon": lambda x, w, r: epsilon_rule(x, LinearMap.dense(w), r, x @ w.T),
    "z_plus": lambda x, w, r: z_plus_rule(x, LinearMap.dense(w), r),
    "alpha_beta": lambda x, w, r: alpha_beta_rule(x, LinearMap.dense(w), r, alpha=2, beta=1),
    "gamma": lambda x, w, r: gamma_rule(x, LinearMap.dense(w), r, x @ w.T, gamma=0.5),
    "split_z_plus": lambda x, w, r: split_z_plus_rule(x, LinearMap.dense(w), r),
    "box": lambda x, w, r: box_rule(x, LinearMap.dense(w), r, x.new_tensor(-5.0), x.new_tensor(5.0)),
}


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "alpha_beta", "gamma", "box"])
@quickly
@given(seed=st.integers(0, 10_000))
def test_relevance_is_conserved_where_every_output_has_contributions_of_both_signs(name, seed):
    inputs, weight, _, relevance = case(seed, bias=False)
    # A positive and a negative contribution to every output.
    inputs[:, :2], weight[:, 0], weight[:, 1] = 1.0, 1.0, -0.5

    found = RULES[name](inputs, weight, relevance)

    scale = float(found.abs().sum() + relevance.abs().sum())
    assert_close(found.sum(1), relevance.sum(1), rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("name", RULES)
def test_zero_relevance_gives_zero_relevance(name):
    inputs, weight, _, relevance = case()

    assert not RULES[name](inputs, weight, torch.zeros_like(relevance)).any()


@pytest.mark.parametrize("name", [name for name in RULES if name != "box"])
def test_an_input_of_zero_has_no_relevance(name):
    inputs, weight, _, relevance = case()
    inputs[:, 1] = 0
    inputs[2] = 0

    found = RULES[name](inputs, weight, relevance)

    assert not found[:, 1].any()
    assert not found[2].any()
    assert found[:2, 0].all()


@pytest.mark.parametrize("name", RULES)
def test_rules_are_linear_in_relevance(name):
    inputs, weight, _, relevance = case()
    other = relevance.flip(0)

    found = RULES[name](inputs, weight, 2 * relevance - 3 * other)

    expected = 2 * RULES[name](inputs, weight, relevance) - 3 * RULES[name](inputs, weight, other)
    assert_close(found, expected, **TIGHT)


@pytest.mark.parametrize("name", [name for name in RULES if name != "box"])
def test_rules_do_not_depend_on_the_scale_of_inputs_and_weights(name):
    inputs, weight, _, relevance = case()

    found = RULES[name](7 * inputs, 0.3 * weight, relevance)

    assert_close(found, RULES[name](inputs, weight, relevance), **TIGHT)


@pytest.mark.parametrize("name", RULES)
def test_samples_of_a_batch_are_explained_as_alone(name):
    inputs, weight, _, relevance = case()

    singles = [RULES[name](inputs[i : i + 1], weight, relevance[i : i + 1]) for i in range(B)]

    assert_close(RULES[name](inputs, weight, relevance), torch.cat(singles), **TIGHT)


def test_beta_of_zero_is_the_rule_of_positive_contributions():
    inputs, weight, _, relevance = case()

    found = alpha_beta_rule(inputs, LinearMap.dense(weight), relevance, alpha=1, beta=0)

    assert_close(found, z_plus_rule(inputs, LinearMap.dense(weight), relevance), rtol=0, atol=0)


def test_the_split_rule_doubles_relevance_where_both_kinds_occur():
    inputs, weight = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[2.0, -3.0]]).double()

    found = split_z_plus_rule(inputs, LinearMap.dense(weight), torch.ones(1, 1).double())

    assert_close(found, torch.ones(1, 2).double(), **TIGHT)
