"""The bi-modal rules are those of the paper, slowly, and give what the authors' own code gave."""

from __future__ import annotations

import pytest
import torch
from golden_models import assert_golden, load_arrays
from torch.testing import assert_close

from attrib_plugin.functional import (
    co_attention_update,
    cross_attention_relevance,
    gradient_weighted_attention,
    normalize_gain,
    self_attention_update,
)

QUERIES, KEYS, OTHERS = 3, 5, 4
EXACT = {"rtol": 0.0, "atol": 1e-14}
FLAGS = [(True, True), (False, True), (True, False), (False, False)]


def some(*shape):
    return torch.rand(2, *shape, dtype=torch.float64)


def exact(matrix):
    return torch.tensor(matrix, dtype=torch.float64)


def multiplied(left, right):
    """A matrix product as loops."""
    rows, inner, columns = len(left), len(right), len(right[0])
    return [[sum(left[i][k] * right[k][j] for k in range(inner)) for j in range(columns)] for i in range(rows)]


def added(left, right):
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def with_identity(matrix):
    return [[value + (i == j) for j, value in enumerate(row)] for i, row in enumerate(matrix)]


def normalized(matrix):
    """Equations 8 and 9 on R: take the identity off, divide every row by its sum, put the identity back."""
    gained = [[value - (i == j) for j, value in enumerate(row)] for i, row in enumerate(matrix)]
    return with_identity([[value / sum(row) if sum(row) else 0.0 for value in row] for row in gained])


def transposed(matrix):
    return [list(column) for column in zip(*matrix, strict=True)]


# ------------------------------------------------------------------------------------- the paper, slowly


def test_self_attention_updates_both_matrices_as_slow_loops_do():
    evidence, gained, between = some(QUERIES, QUERIES), some(QUERIES, QUERIES), some(QUERIES, OTHERS)

    own, other = self_attention_update(evidence, gained, between)

    for sample in range(2):
        layer, start = evidence[sample].tolist(), with_identity(gained[sample].tolist())
        expected = added(start, multiplied(layer, start))
        assert_close(own[sample] + torch.eye(QUERIES).double(), exact(expected), **EXACT)
        moved = added(between[sample].tolist(), multiplied(layer, between[sample].tolist()))
        assert_close(other[sample], exact(moved), **EXACT)


@pytest.mark.parametrize(("normalize", "with_self"), FLAGS)
def test_cross_attention_adds_what_slow_loops_add(normalize, with_self):
    evidence, queries, keys = some(QUERIES, KEYS), some(QUERIES, QUERIES), some(KEYS, KEYS)

    addition = cross_attention_relevance(
        evidence, queries, keys, normalize_self_attention=normalize, apply_self_in_rule_10=with_self
    )

    for sample in range(2):
        own, other = with_identity(queries[sample].tolist()), with_identity(keys[sample].tolist())
        if normalize:
            own, other = normalized(own), normalized(other)
        expected = multiplied(transposed(own), multiplied(evidence[sample].tolist(), other))
        expected = expected if with_self else evidence[sample].tolist()
        assert_close(addition[sample], exact(expected), **EXACT)


@pytest.mark.parametrize("normalize", [True, False])
def test_cross_attention_without_the_keys_lacks_only_their_factor(normalize):
    evidence, queries, keys = some(QUERIES, KEYS), some(QUERIES, QUERIES), some(KEYS, KEYS)

    without = cross_attention_relevance(evidence, queries, None, normalize_self_attention=normalize)

    factor = torch.eye(KEYS).double() + (normalize_gain(keys) if normalize else keys)
    expected = cross_attention_relevance(evidence, queries, keys, normalize_self_attention=normalize)
    assert_close(without @ factor, expected, rtol=0.0, atol=1e-13)


def test_co_attention_adds_what_comes_back_and_what_crosses():
    evidence, queries, keys = some(QUERIES, KEYS), some(QUERIES, QUERIES), some(KEYS, KEYS)
    between, back = some(QUERIES, KEYS), some(KEYS, QUERIES)

    own, crossed = co_attention_update(evidence, queries, keys, between, back)

    for sample in range(2):
        returned = multiplied(evidence[sample].tolist(), back[sample].tolist())
        assert_close(own[sample], exact(added(queries[sample].tolist(), returned)), **EXACT)
    assert_close(crossed, between + cross_attention_relevance(evidence, queries, keys), **EXACT)


def test_rows_of_a_normalised_gain_sum_to_one():
    assert_close(normalize_gain(some(KEYS, KEYS)).sum(-1), torch.ones(2, KEYS).double(), **EXACT)


def test_a_token_that_took_nothing_stands_for_itself_and_spoils_no_other():
    queries, keys = some(QUERIES, QUERIES), some(KEYS, KEYS)
    queries[:, 1] = keys[:, 2] = 0
    evidence = some(QUERIES, KEYS)

    addition = cross_attention_relevance(evidence, queries, keys)

    assert not normalize_gain(keys)[:, 2].any()
    assert addition.isfinite().all()
    # Shrunk towards nothing, the same row normalised would still sum to one: exact zero is the only special case.
    nearly = keys.clone()
    nearly[:, 2] = 1e-300
    assert_close(normalize_gain(nearly)[:, 2].sum(-1), torch.ones(2).double(), **EXACT)


def test_small_relevance_keeps_its_digits_beside_the_identity():
    gained = some(KEYS, KEYS).float() * 1e-9

    assert_close(normalize_gain(gained), normalize_gain(gained.double()).float(), rtol=1e-6, atol=0.0)


# ------------------------------------------------------------------------------------- the authors' own code


@pytest.fixture(scope="module")
def toy():
    return load_arrays("mm_toy_rules")


def evidence_of(toy, name):
    return gradient_weighted_attention(toy[f"{name}.attn"], toy[f"{name}.grad"])


def zeros(*shape):
    return torch.zeros(1, *shape, dtype=torch.float64)


@pytest.mark.parametrize(("case", "flags"), [("default", {}), ("nonorm", {"normalize_self_attention": False})])
def test_an_encoder_with_object_queries_gives_the_arrays_of_the_detr_code(toy, case, flags):
    image, queries, between = zeros(9, 9), zeros(3, 3), zeros(3, 9)
    for layer in range(2):
        image, _ = self_attention_update(evidence_of(toy, f"detr_in.enc{layer}"), image, zeros(9, 1))
    for layer in range(2):
        queries, between = self_attention_update(evidence_of(toy, f"detr_in.dec{layer}.self"), queries, between)
        crossing = evidence_of(toy, f"detr_in.dec{layer}.cross")
        between = between + cross_attention_relevance(crossing, queries, image, **flags)

    assert_golden(image[0] + torch.eye(9).double(), toy[f"detr.{case}.R_i_i"])
    assert_golden(queries[0] + torch.eye(3).double(), toy[f"detr.{case}.R_q_q"])
    assert_golden(between[0], toy[f"detr.{case}.R_q_i_all"])
    assert_golden(between[0, 1], toy[f"detr.{case}.target1"].flatten())


def lxmert(toy, prefix, counts, flags):
    """Self-attention of both sequences, then layers of co-attention; the last of them is of the text alone."""
    texts, images = zeros(5, 5), zeros(7, 7)
    of_texts, of_images = zeros(5, 7), zeros(7, 5)
    for layer in range(counts[0]):
        texts, of_texts = self_attention_update(evidence_of(toy, f"{prefix}in.lang{layer}"), texts, of_texts)
    for layer in range(counts[1]):
        images, of_images = self_attention_update(evidence_of(toy, f"{prefix}in.vis{layer}"), images, of_images)
    for layer in range(counts[2]):
        name = f"{prefix}in.x{layer}"
        after = co_attention_update(evidence_of(toy, f"{name}.cross_lang"), texts, images, of_texts, of_images, **flags)
        if layer < counts[2] - 1:
            crossing = evidence_of(toy, f"{name}.cross_vis")
            images, of_images = co_attention_update(crossing, images, texts, of_images, of_texts, **flags)
            images, of_images = self_attention_update(evidence_of(toy, f"{name}.self_vis"), images, of_images)
        texts, of_texts = self_attention_update(evidence_of(toy, f"{name}.self_lang"), *after)
    relevance = texts[0] + torch.eye(5).double()
    relevance[0, 0] = 0  # as the authors' code does with the class token
    return relevance, of_texts[0]


@pytest.mark.parametrize(
    ("case", "flags"),
    [
        ("default", {}),
        ("nonorm", {"normalize_self_attention": False}),
        ("noself10", {"apply_self_in_rule_10": False}),
    ],
)
def test_co_attention_gives_the_arrays_of_the_lxmert_code(toy, case, flags):
    texts, of_texts = lxmert(toy, "", (3, 2, 3), flags)

    assert_golden(texts, toy[f"lxmert.{case}.R_t_t"])
    assert_golden(of_texts, toy[f"lxmert.{case}.R_t_i"])


def test_a_row_without_relevance_that_makes_the_authors_code_nan_is_defined_here(toy):
    texts, of_texts = lxmert(toy, "zerorow_", (1, 1, 2), {})

    for ours, name in ((texts, "R_t_t"), (of_texts, "R_t_i")):
        theirs = toy[f"lxmert.zerorow.{name}"]
        assert theirs.isnan().any()
        assert ours.isfinite().all()
        assert (ours >= 0).all()
        assert_close(ours[~theirs.isnan()], theirs[~theirs.isnan()], **EXACT)
