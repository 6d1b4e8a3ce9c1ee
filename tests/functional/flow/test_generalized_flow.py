"""Generalized attention flow against an oracle that tries every set of tokens, and what makes it the fair one."""

from itertools import combinations

import numpy as np
import pytest
import torch
from flow_graphs import KINDS, layered_graph, random_attention, reference_flow_of_set
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional import flow_graph, generalized_attention_flow

EXACT = {"rtol": 0.0, "atol": 1e-11}
every_engine = pytest.mark.parametrize("engine", ["scipy", "numba"])
quickly = settings(max_examples=25, deadline=None, derandomize=True)


def useful_columns(capacities, output):
    """What each input token could send over edges that lead to the output token."""
    import networkx as nx

    graph = layered_graph(capacities)
    leads = nx.ancestors(graph, (len(capacities), output)) | {(len(capacities), output)}
    tokens = range(capacities.shape[1])
    return np.array([sum(capacities[0, q, k] for q in tokens if (1, q) in leads) for k in tokens])


def fair_by_all_sets(capacities, output):
    """Raise the share of all tokens together; whenever a set of tokens can send no more, hold it there."""
    weights = useful_columns(capacities, output)
    tokens = [token for token in range(capacities.shape[1]) if weights[token] > 0]
    together = {
        chosen: reference_flow_of_set(capacities, chosen, output)
        for size in range(1, len(tokens) + 1)
        for chosen in combinations(tokens, size)
    }
    sent, held = np.zeros(len(weights)), set()
    while len(held) < len(tokens):
        shares = {
            chosen: (most - sum(sent[token] for token in chosen if token in held))
            / sum(weights[token] for token in chosen if token not in held)
            for chosen, most in together.items()
            if set(chosen) - held
        }
        share = min(shares.values())
        stopped = set().union(*(chosen for chosen, value in shares.items() if value <= share * (1 + 1e-9) + 1e-15))
        for token in stopped - held:
            sent[token] = share * weights[token]
        held |= stopped
    return sent


@every_engine
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "tokens", "output"), [(1, 3, 1), (2, 4, 0), (3, 5, 4), (5, 4, 2)])
def test_shares_agree_with_trying_every_set(kind, layers, tokens, output, engine):
    capacities = random_attention(kind, layers, 1, tokens, seed=layers)

    sent = generalized_attention_flow(capacities, outputs=output, engine=engine)[0, 0]

    expected = torch.from_numpy(fair_by_all_sets(capacities[:, 0].numpy(), output))
    assert_close(sent, expected, rtol=1e-9, atol=1e-11)


@quickly
@given(st.sampled_from(sorted(KINDS)), st.integers(1, 6), st.integers(1, 7), st.integers(0, 999))
def test_rows_sum_to_the_maximum_flow_of_all_tokens(kind, layers, tokens, seed):
    capacities = random_attention(kind, layers, 1, tokens, seed)

    sent = generalized_attention_flow(capacities)[0]

    for output in range(tokens):
        value = flow_graph(capacities, output=output, residual=None).value
        assert float(sent[output].sum()) == pytest.approx(value, rel=1e-9, abs=1e-12)


@quickly
@given(st.sampled_from(sorted(KINDS)), st.permutations(range(5)), st.integers(0, 999))
def test_permuting_tokens_permutes_the_shares(kind, order, seed):
    capacities = random_attention(kind, 3, 1, 5, seed)

    permuted = generalized_attention_flow(capacities[..., order, :][..., order])

    assert_close(permuted, generalized_attention_flow(capacities)[..., order, :][..., order], **EXACT)


@quickly
@given(st.sampled_from(["soft", "peaked", "even"]), st.integers(0, 999))
def test_splitting_a_token_in_two_splits_its_share(kind, seed):
    capacities = random_attention(kind, 3, 1, 4, seed)
    split = torch.zeros(3, 1, 5, 5, dtype=torch.float64)
    split[:, :, :4, :4] = capacities
    split[0, :, :, 4] = split[0, :, :, 3] = split[0, :, :, 3] / 2

    shares = generalized_attention_flow(split, outputs=0)[0, 0]

    whole = generalized_attention_flow(capacities, outputs=0)[0, 0]
    assert_close(shares[:3], whole[:3], **EXACT)
    assert_close(shares[3:], (whole[3] / 2).expand(2), **EXACT)


def test_an_edge_that_leads_nowhere_does_not_count():
    capacities = random_attention("soft", 3, 1, 4)
    capacities[1:, :, :, 3] = 0.0
    more = capacities.clone()
    more[0, :, 3] *= 5

    assert_close(
        generalized_attention_flow(more, outputs=0), generalized_attention_flow(capacities, outputs=0), **EXACT
    )


def test_without_a_path_nothing_flows():
    capacities = random_attention("soft", 3, 1, 4)
    capacities[1] = 0.0

    assert not generalized_attention_flow(capacities).any()


def test_negative_capacities_are_refused():
    with pytest.raises(ValueError, match="non-negative"):
        generalized_attention_flow(-torch.ones(2, 1, 3, 3))
