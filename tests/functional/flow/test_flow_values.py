"""Attention flow against networkx, SciPy and OR-tools, and what must hold for every graph."""

import numpy as np
import pytest
import torch
from flow_graphs import KINDS, random_attention, reference_flow
from golden_models import FOLDER, PADDED, TEXTS, assert_golden, load_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional import attention_flow, attention_flow_by_layer, fuse_heads, mix_residual

ENGINES = ("scipy", "numba")
IMAGES = ("vit_tiny_d3.img0", "vit_tiny_d3.img1", "vit_tiny_d3.img2")
EXACT = {"rtol": 0.0, "atol": 1e-12}
SEEDS = st.integers(0, 10_000)
quickly = settings(max_examples=25, deadline=None, derandomize=True)
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_kind = pytest.mark.parametrize("kind", KINDS)


# ------------------------------------------------------------------------------------- other solvers

GRAPHS_PER_SHAPE = 40
SHAPES = [(1, 4), (2, 5), (3, 3), (4, 6)]


@every_kind
@pytest.mark.parametrize(("layers", "tokens"), SHAPES)
def test_flow_agrees_with_networkx_on_forty_random_graphs(kind, layers, tokens):
    attention = random_attention(kind, layers, GRAPHS_PER_SHAPE, tokens, seed=layers)
    generator = np.random.default_rng(tokens)

    flows = {engine: attention_flow(attention, residual=None, engine=engine).numpy() for engine in ENGINES}

    for sample in range(GRAPHS_PER_SHAPE):
        source, output = generator.integers(tokens, size=2)
        expected = reference_flow(attention[:, sample].numpy(), source, output)
        for engine in ENGINES:
            assert flows[engine][sample, output, source] == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_the_random_graphs_are_two_thousand():
    assert len(KINDS) * len(SHAPES) * GRAPHS_PER_SHAPE >= 2000


@every_kind
@every_engine
def test_flow_with_a_residual_path_agrees_with_networkx(kind, engine):
    attention = random_attention(kind, 5, 4, 5, seed=9)
    capacities = torch.stack([mix_residual(layer, 0.4) for layer in attention]).numpy()

    flows = attention_flow(attention, residual=0.4, engine=engine).numpy()

    for sample, output, source in [(0, 0, 4), (1, 3, 3), (2, 4, 1), (3, 1, 0)]:
        expected = reference_flow(capacities[:, sample], source, output)
        assert flows[sample, output, source] == pytest.approx(expected, rel=1e-12, abs=1e-13)


@every_kind
@pytest.mark.parametrize(("layers", "tokens"), [(3, 40), (6, 33), (12, 24)])
def test_both_engines_agree_on_larger_graphs(kind, layers, tokens):
    attention = random_attention(kind, layers, 1, tokens, seed=3)

    compiled = attention_flow(attention, outputs=[0, -1], engine="numba")
    plain = attention_flow(attention, outputs=[0, -1], engine="scipy")

    assert_close(compiled, plain, **EXACT)


@pytest.mark.parametrize("kind", ["soft", "peaked", "causal", "one_hot"])
def test_flow_agrees_with_scipy_up_to_its_integers(kind):
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    attention = random_attention(kind, 5, 1, 48, seed=4)
    capacities = mix_residual(attention[:, 0]).numpy()
    layer, query, key = (index.astype(np.int32) for index in np.nonzero(capacities))
    units = np.floor(capacities[layer, query, key] * 2**30).astype(np.int32)
    graph = csr_array((units, (layer * 48 + key, (layer + 1) * 48 + query)), shape=(6 * 48, 6 * 48))

    flows = attention_flow(attention, outputs=7)

    for source in (0, 7, 30):
        lower = maximum_flow(graph, source, 5 * 48 + 7).flow_value / 2**30
        # Each edge of a cut loses less than a unit.
        assert 0 <= float(flows[0, 0, source]) - lower + 1e-12 < 5 * 48**2 / 2**30


@pytest.mark.parametrize("kind", ["soft", "peaked", "causal"])
def test_flow_agrees_with_or_tools(kind):
    solver = pytest.importorskip("ortools.graph.python.max_flow")
    attention = random_attention(kind, 6, 1, 40, seed=5)
    capacities = mix_residual(attention[:, 0]).numpy()
    layer, query, key = np.nonzero(capacities)
    units = np.floor(capacities[layer, query, key] * 2**44).astype(np.int64)

    flows = attention_flow(attention, outputs=2)

    for source in (0, 2, 39):
        graph = solver.SimpleMaxFlow()
        graph.add_arcs_with_capacity(layer * 40 + key, (layer + 1) * 40 + query, units)
        graph.solve(source, 6 * 40 + 2)
        assert float(flows[0, 0, source]) == pytest.approx(graph.optimal_flow() / 2**44, abs=1e-9)


@every_engine
def test_flows_far_below_their_capacities_keep_their_digits(engine):
    attention = random_attention("very_peaked", 6, 3, 6, seed=8)

    flows = attention_flow(attention, residual=None, engine=engine)

    assert flows.min() < 1e-8
    for sample in range(3):
        output, source = divmod(int(flows[sample].argmin()), 6)
        expected = reference_flow(attention[:, sample].numpy(), source, output)
        assert float(flows[sample, output, source]) == pytest.approx(expected, rel=1e-9)


# ------------------------------------------------------------------------------------- the authors' code


def load_flow(name):
    """Flows of the authors' code, ``data/<model>.<input>.flow.npz``: ``abnar.flow_*`` of golden/README.md.

    [l, i, j] is the maximum flow from input token j to token i after layer l + 1; ``res`` with the identity added and
    rows normalised, ``nores`` on attention alone; ``norm`` divided by its sum over j. NaN is not computed.
    """
    with np.load(FOLDER / "data" / f"{name}.flow.npz", allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def assert_flow_golden(flows, stored):
    """Agreement where the reference was computed; NaN marks rows that were not."""
    computed = ~stored.isnan()
    assert computed.any()
    assert_golden(flows[computed], stored[computed])


@every_engine
@pytest.mark.parametrize(("residual", "array"), [(0.5, "flow_res"), (0.0, "flow_nores")])
@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_flow_of_every_layer_is_that_of_abnar(name, residual, array, engine):
    attention = fuse_heads(load_case(name).arrays["attn"])
    stored = load_flow(name)

    raw = attention_flow_by_layer(attention, residual=residual, engine=engine)[:, 0]
    normalized = attention_flow_by_layer(attention, residual=residual, engine=engine, normalize=True)[:, 0]

    assert_flow_golden(raw, stored[f"abnar.{array}_raw"])
    assert_flow_golden(normalized, stored[f"abnar.{array}_norm"])


@pytest.mark.parametrize(("residual", "array"), [(0.5, "flow_res"), (0.0, "flow_nores")])
def test_flow_of_a_padded_batch_is_that_of_abnar_for_each_row_alone(residual, array):
    attention = fuse_heads(load_case(PADDED).arrays["attn"])
    stored = load_flow(PADDED)

    flows = attention_flow_by_layer(attention, residual=residual)

    for sample in range(3):
        assert_flow_golden(flows[:, sample], stored[f"abnar.row{sample}.{array}_raw"])


# ------------------------------------------------------------------------------------- properties


@every_engine
def test_flow_of_one_layer_is_its_capacities(engine):
    attention = random_attention("soft", 1, 3, 5)

    flows = attention_flow(attention, engine=engine)

    assert_close(flows, mix_residual(attention[0]), **EXACT)


@every_engine
def test_flow_of_two_layers_goes_through_each_middle_token_by_itself(engine):
    lower, upper = attention = random_attention("soft", 2, 3, 5)

    flows = attention_flow(attention, residual=None, engine=engine)

    expected = torch.minimum(upper[:, :, :, None], lower[:, None]).sum(2)
    assert_close(flows, expected, **EXACT)


@every_engine
@every_kind
def test_all_outputs_at_once_are_the_outputs_one_by_one(kind, engine):
    attention = random_attention(kind, 6, 1, 9, seed=2)

    together = attention_flow(attention, engine=engine)
    alone = torch.cat([attention_flow(attention, outputs=token, engine=engine) for token in range(9)], dim=1)

    assert_close(together, alone, **EXACT)


@every_engine
def test_the_last_of_all_layers_is_the_flow(engine):
    attention = random_attention("peaked", 4, 2, 6)

    by_layer = attention_flow_by_layer(attention, outputs=[1, 4], engine=engine)

    assert by_layer.shape == (4, 2, 2, 6)
    for depth in range(1, 5):
        assert_close(by_layer[depth - 1], attention_flow(attention[:depth], outputs=[1, 4], engine=engine), **EXACT)


@quickly
@given(st.sampled_from(sorted(KINDS)), st.permutations(range(5)), SEEDS)
def test_permuting_tokens_permutes_the_flow(kind, order, seed):
    attention = random_attention(kind, 4, 2, 5, seed)

    permuted = attention_flow(attention[..., order, :][..., order])

    assert_close(permuted, attention_flow(attention)[..., order, :][..., order], **EXACT)


@quickly
@given(st.sampled_from(sorted(KINDS)), st.floats(1e-6, 1e6), SEEDS)
def test_flow_scales_with_the_capacities(kind, factor, seed):
    attention = random_attention(kind, 4, 1, 5, seed)

    scaled = attention_flow(factor * attention, residual=None)

    assert_close(scaled, factor * attention_flow(attention, residual=None), rtol=1e-9, atol=1e-12 * factor)


@quickly
@given(st.sampled_from(sorted(KINDS)), SEEDS)
def test_more_capacity_never_means_less_flow(kind, seed):
    attention = random_attention(kind, 4, 1, 5, seed)

    more = attention_flow(attention + 0.1 * random_attention("not_stochastic", 4, 1, 5, seed + 1), residual=None)

    assert (more >= attention_flow(attention, residual=None) - 1e-12).all()


def test_identity_attention_lets_each_token_reach_itself_alone():
    flows = attention_flow(random_attention("identity", 4, 1, 6))

    assert_close(flows[0], torch.eye(6, dtype=torch.float64), **EXACT)


def test_normalized_rows_sum_to_one_and_rows_of_zeros_stay():
    attention = random_attention("soft", 3, 1, 4)
    attention[-1, :, 2] = 0.0

    rows = attention_flow(attention, residual=None, normalize=True)[0].sum(-1)

    assert_close(rows, torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64), **EXACT)
