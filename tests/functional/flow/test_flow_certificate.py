"""No value leaves without its certificate: a broken flow, cut or engine is noticed."""

import numpy as np
import pytest
import torch
from flow_graphs import KINDS, random_attention
from hypothesis import given, settings
from hypothesis import strategies as st

from attrib_plugin.functional.flow import augment, kernels, numba_engine, scipy_engine
from attrib_plugin.functional.flow.bounds import stream_bounds, trivial_bounds
from attrib_plugin.functional.flow.network import Network, sample_network
from attrib_plugin.functional.flow.pairs import flow_rows, middle_of
from attrib_plugin.functional.flow.problems import Answers, Problems, solve_certified

ENGINES = {"scipy": scipy_engine.solve, "numba": numba_engine.solve}
every_engine = pytest.mark.parametrize("engine", ENGINES)


def make_network(kind="soft", layers=5, tokens=7, residual=0.5):
    return sample_network(random_attention(kind, layers, 1, tokens, seed=1), 0, residual)


def problems_of(network, output=2):
    each = np.arange(network.n_tokens)
    return Problems(
        np.ascontiguousarray(network.layers[0].T),
        network.layers[-1],
        each,
        np.full_like(each, output),
        np.minimum(stream_bounds(network, [output]), trivial_bounds(network, [output]))[0],
    )


def silent(solved):
    pass


def lying(engine, change):
    def solve(middle, problems, tick, *, with_sides=False):
        answers = engine(middle, problems, tick, with_sides=with_sides)
        return Answers(*change(answers.flows, answers.cuts), answers.sides)

    return solve


@every_engine
@pytest.mark.parametrize(
    "change",
    [
        lambda flows, cuts: (flows * (1 - 1e-8), cuts),
        lambda flows, cuts: (flows, cuts * (1 + 1e-8)),
        lambda flows, cuts: (flows, cuts * (1 - 1e-8)),
        lambda flows, cuts: (flows * np.nan, cuts),
        lambda flows, cuts: (np.zeros_like(flows), cuts),
    ],
)
def test_a_flow_that_differs_from_its_cut_is_never_returned(engine, change):
    network = make_network()

    with pytest.raises(ArithmeticError, match=r"flows could not be certified.*agree within 1e-09"):
        flow_rows(network, [2], lying(ENGINES[engine], change), silent)


@every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_puts_its_working_copy_back_bit_for_bit(engine, kind):
    network = make_network(kind, residual=None)
    middle = middle_of(network)

    solve_certified(ENGINES[engine], middle, problems_of(network), silent)

    assert np.array_equal(middle.work, middle.capacities)


@every_engine
def test_a_bound_that_is_no_cut_is_refused(engine):
    network = make_network("causal")
    problems = problems_of(network)
    middle = middle_of(network)
    truth = solve_certified(ENGINES[engine], middle, problems, silent).cuts

    answers = ENGINES[engine](middle, problems, silent)

    assert np.all(answers.flows <= truth * (1 + 1e-12))
    assert np.all(answers.cuts >= truth * (1 - 1e-12))


@every_engine
def test_an_engine_without_the_closing_bounds_finds_the_cut_by_itself(engine):
    network = make_network("peaked", layers=4)
    middle, problems = middle_of(network), problems_of(network)
    loose = Problems(problems.supplies, problems.demands, problems.supply, problems.demand, 10 * np.ones(7))

    with_bounds = solve_certified(ENGINES[engine], middle, problems, silent)
    without = solve_certified(ENGINES[engine], middle, loose, silent)

    np.testing.assert_allclose(without.cuts, with_bounds.cuts, rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------- the check of a flow


def small_flow():
    """A path of one unit through two middle layers of two tokens, noted as an engine notes it."""
    middle = np.full(8, 1.0)
    residual, vertical = middle.copy(), np.full(4, 1.0)
    touched, before = np.zeros(6, np.int32), np.zeros(6)
    for place, edge in enumerate((1, 6)):  # (0, 1) -> (1, 0) -> (2, 1)
        touched[place], before[place] = edge, 1.0
        residual[edge] = 0.5
    touched[-1] = 2
    return middle, residual, vertical, touched, before


@pytest.mark.parametrize("check", [augment.certified_flow, numba_engine._certified_flow])
@pytest.mark.parametrize(
    ("break_it", "value"),
    [
        (lambda residual, vertical, sent, taken: None, 0.5),
        (lambda residual, vertical, sent, taken: residual.__setitem__(1, 0.6), 0.3),  # lost on the way
        (lambda residual, vertical, sent, taken: residual.__setitem__(1, 1.5), -1.0),  # a negative flow
        (lambda residual, vertical, sent, taken: vertical.__setitem__(0, 0.9), 0.3),  # a flow from nowhere
        (lambda residual, vertical, sent, taken: sent.__setitem__(1, 0.4), 0.4),  # more than was supplied
        (lambda residual, vertical, sent, taken: taken.__setitem__(1, 0.7), 0.5),  # more than arrived
    ],
)
def test_the_check_counts_only_what_a_true_flow_carries(check, break_it, value):
    middle, residual, vertical, touched, before = small_flow()
    sent, taken = np.array([0.0, 0.5]), np.array([0.0, 0.5])
    break_it(residual, vertical, sent, taken)

    checked = check(2, 2, middle, residual, np.full(4, 1.0), vertical, sent, taken, touched, before, np.zeros(6))

    assert checked == pytest.approx(value, abs=1e-12) or checked < 0.5 - 1e-3
    assert checked <= 0.5 + 1e-12
    assert np.array_equal(residual, middle)


def test_the_check_in_arrays_is_the_check_in_loops():
    network = make_network("peaked", layers=4)
    middle, problems = middle_of(network), problems_of(network)

    plain = scipy_engine.solve(middle, problems, silent)
    compiled = numba_engine.solve(middle, problems, silent)

    np.testing.assert_allclose(plain.flows, compiled.flows, rtol=1e-12)


# ------------------------------------------------------------------------------------- bounds


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([None, 0.5]),
    st.integers(0, 999),
)
def test_no_flow_exceeds_the_bounds(kind, layers, tokens, residual, seed):
    network = sample_network(random_attention(kind, layers, 1, tokens, seed), 0, residual)
    flows = flow_rows(network, range(tokens), scipy_engine.solve, silent)

    outputs = list(range(tokens))
    slack = 1 + 1e-12
    assert (flows <= stream_bounds(network, outputs) * slack + 1e-15).all()
    assert (flows <= trivial_bounds(network, outputs) * slack + 1e-15).all()


def test_sums_without_the_diagonal_keep_small_entries():
    layers = np.full((1, 3, 3), 1e-20)
    layers[0, [0, 1, 2], [0, 1, 2]] = 1.0

    network = Network.of(layers)

    np.testing.assert_allclose(network.off_rows, 2e-20)
    np.testing.assert_allclose(network.off_columns, 2e-20)
    np.testing.assert_array_equal(network.layers[0].diagonal(), 1.0)


# ------------------------------------------------------------------------------------- the steps, uncompiled


def test_plain_python_and_compiled_steps_find_the_same_flow():
    network = make_network("peaked", layers=4, tokens=6)
    middle = middle_of(network)
    depth, n = middle.capacities.shape[:2]
    capacities, residual = middle.capacities.reshape(-1), middle.work.reshape(-1)
    supply, demand = network.layers[0][:, 1].copy(), network.layers[-1][2].copy()
    whole = supply.copy(), demand.copy()
    nodes = (depth + 1) * n
    state, links = np.zeros(nodes, np.int64), np.zeros(n + 1, np.int64)
    level, queue, waiting, cursor, node = (np.zeros(nodes, np.int64) for _ in range(5))
    touched, before = np.zeros(400, np.int32), np.zeros(400)
    start, above = np.zeros(nodes + 1, np.int64), np.zeros(400, np.int64)
    spans = tuple(part.reshape(-1) for part in middle.spans.parts)
    total, bound = 0.0, min(supply.sum(), demand.sum())
    kernels.reachable(n, depth, spans, supply, demand, state, links)

    while True:
        arguments = n, depth, capacities, residual, state, supply, demand, 0.0, level, queue, waiting
        nearest = augment.label(*arguments, np.zeros(depth + 1, np.int64))
        if nearest < 0:
            break
        augment.cancellable(n, depth, capacities, residual, 0.0, level, touched, start, above)
        total = augment.block(
            n, depth, capacities, residual, supply, demand, nearest, 0.0, level, start, above, cursor, node,
            np.zeros(nodes), np.zeros(nodes), touched, before, total, bound,
        )  # fmt: skip
    cut = augment.cut_capacity(n, depth, capacities, level, state, *whole, queue)
    vertical = np.ascontiguousarray(np.diagonal(middle.capacities, axis1=1, axis2=2)).reshape(-1)
    sent, taken = whole[0] - supply, whole[1] - demand
    checked = augment.certified_flow(
        n, depth, capacities, residual, vertical, vertical, sent, taken, touched, before, np.zeros(nodes)
    )

    expected = flow_rows(network, [2], numba_engine.solve, silent)[0, 1]
    assert total == pytest.approx(expected, rel=1e-12)
    assert cut == pytest.approx(expected, rel=1e-12)
    assert checked == pytest.approx(expected, rel=1e-12)


def test_float32_attention_is_followed_in_float64():
    attention = random_attention("peaked", 4, 1, 6).float()

    network = sample_network(attention, 0, None)

    assert network.layers.dtype == np.float64
    assert torch.equal(torch.from_numpy(network.layers).float(), attention[:, 0])
