"""Relevance between two sequences of tokens that attend to themselves and to each other.

Self-relevance is carried without its start, as the gain R - I: beside a one, small relevance would lose digits.
Axes: ``query`` tokens attend to ``key`` tokens; of two queries or two keys the first is the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def self_attention_update(
    evidence: Float[Tensor, "*batch token token"],
    gained: Float[Tensor, "*batch token token"],
    between: Float[Tensor, "*batch token other"],
) -> tuple[Float[Tensor, "*batch token token"], Float[Tensor, "*batch token other"]]:
    """What a layer of self-attention makes of the relevance of its tokens.

    R_ss ← R_ss + E·R_ss, written for the gain, and R_sq ← R_sq + E·R_sq.

    Args:
        evidence: Non-negative E of the layer; rows are queries.
        gained: Relevance of the tokens for themselves, without the identity; zero at the start.
        between: Relevance of the other sequence's tokens for these; zero at the start.

    Returns:
        Both after the layer, at least 0, in units of the score.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 6 and 7.
    """
    return gained + evidence + evidence @ gained, between + evidence @ between


def normalize_gain(gained: Float[Tensor, "*batch token token"]) -> Float[Tensor, "*batch token token"]:
    """Rows of self-relevance scaled to sum to one, the identity held apart.

    A token that took nothing from any token has a row of zeros and keeps it: 0/0 is 0. With the identity added back
    such a token stands for itself alone, which is what the rule says of a token before its first layer.

    Args:
        gained: R - I, at least 0.

    Returns:
        Each row sums to one, or to zero.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 8 and 9. The authors' code gives NaN for 0/0, which
        spreads to every token.
    """
    sums = gained.sum(-1, keepdim=True)
    return gained / sums.where(sums != 0, torch.ones_like(sums))


def cross_attention_relevance(
    evidence: Float[Tensor, "*batch query key"],
    queries_gained: Float[Tensor, "*batch query query"],
    keys_gained: Float[Tensor, "*batch key key"] | None,
    *,
    normalize_self_attention: bool = True,
    apply_self_in_rule_10: bool = True,
) -> Float[Tensor, "*batch query key"]:
    """What a layer of cross-attention adds to the relevance of keys for queries: R̃_ssᵀ·E·R̃_qq.

    Args:
        evidence: Non-negative E of the layer; rows are queries.
        queries_gained: Self-relevance of the queries, without the identity.
        keys_gained: Self-relevance of the keys, without the identity; ``None`` leaves its factor out, for callers who
            apply it to rows.
        normalize_self_attention: Whether R̃ is I plus the normalised gain; if not, it is R.
        apply_self_in_rule_10: Whether both R̃ take part; if not, E alone is added.

    Returns:
        Addition, at least 0.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equation 10. The options are those of the authors' code.
    """
    if not apply_self_in_rule_10:
        return evidence
    if normalize_self_attention:
        queries_gained = normalize_gain(queries_gained)
        keys_gained = None if keys_gained is None else normalize_gain(keys_gained)
    mixed = evidence if keys_gained is None else evidence + evidence @ keys_gained
    return mixed + queries_gained.mT @ mixed


def co_attention_update(
    evidence: Float[Tensor, "*batch query key"],
    queries_gained: Float[Tensor, "*batch query query"],
    keys_gained: Float[Tensor, "*batch key key"],
    between: Float[Tensor, "*batch query key"],
    back: Float[Tensor, "*batch key query"],
    *,
    normalize_self_attention: bool = True,
    apply_self_in_rule_10: bool = True,
) -> tuple[Float[Tensor, "*batch query query"], Float[Tensor, "*batch query key"]]:
    """What a layer of co-attention makes of the relevance for its queries.

    R_ss ← R_ss + E·R_qs and R_sq ← R_sq + R̃_ssᵀ·E·R̃_qq. Where both sequences attend to each other at once, both
    updates take the state before the layer.

    Args:
        evidence: Non-negative E of the layer; rows are queries.
        queries_gained: Self-relevance of the queries, without the identity.
        keys_gained: Self-relevance of the keys, without the identity.
        between: Relevance R_sq of keys for queries.
        back: Relevance R_qs of queries for keys.
        normalize_self_attention: As in :func:`cross_attention_relevance`.
        apply_self_in_rule_10: As in :func:`cross_attention_relevance`.

    Returns:
        Self-relevance of the queries without the identity, and relevance of keys for queries, after the layer.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 10 and 11.
    """
    added = cross_attention_relevance(
        evidence,
        queries_gained,
        keys_gained,
        normalize_self_attention=normalize_self_attention,
        apply_self_in_rule_10=apply_self_in_rule_10,
    )
    return queries_gained + evidence @ back, between + added
