"""Relevance through softmax attention, by the product rules, in blocks of query rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from attrib_plugin.functional.attention import attention_gradient, attention_probabilities
from attrib_plugin.functional.lrp.division import EXACT, Stabilizer, per_sample_sum

MaskSum = Literal["ignored", "proportional", "conserving"]

BLOCK_BYTES = 16 * 2**20
"""Largest block of attention probabilities formed at a time, in bytes."""


def halves(first: bool, second: bool) -> tuple[float, float]:
    """Shares of the two operands of a product: a half each, or all of it for one beside a constant.

    Args:
        first: Whether relevance may reach the first operand.
        second: Whether relevance may reach the second operand.

    Returns:
        The shares; zero for a constant.
    """
    return (0.5, 0.5) if first and second else (float(first), float(second))


def probability_relevance(probs: Tensor, output_share: Tensor, value: Tensor, rows: Tensor | None = None) -> Tensor:
    """Relevance of attention probabilities: half of what their product with the values carries.

    R_A = ½·A ⊙ (S·Vᵀ) with S = R_O/O.

    Args:
        probs: Probabilities A of the wanted rows, ``batch head row key``.
        output_share: S, relevance of the attention output divided by it, for all rows.
        value: Values V.
        rows: Which rows; ``None`` is all.

    Returns:
        Relevance of the probabilities, signed.

    Reference:
        Chefer, Gur and Wolf 2021a, arXiv:2012.09838, equations 7 to 10: both operands of a product carry the same
        sum, so that their normalisation is a half each.
    """
    return probs * attention_gradient(output_share, value, rows=rows) / 2


def product_rules_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    relevance: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    divide: Stabilizer = EXACT,
    mask_sum: MaskSum = "ignored",
    carries: tuple[bool, ...] = (True, True, True),
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of queries, keys and values from that of the attention output.

    Each matrix product passes half of its relevance to either operand in proportion to contributions; softmax, scale
    and mask pass it on as it is.

    Args:
        query: Queries Q, ``batch head query dim``.
        key: Keys K; may have fewer heads.
        value: Values V; may have fewer heads.
        output: Attention output O.
        relevance: Its relevance.
        mask: As of ``scaled_dot_product_attention``.
        is_causal: As of ``scaled_dot_product_attention``.
        scale: As of ``scaled_dot_product_attention``.
        divide: The stabiliser.
        mask_sum: What adding the mask does, also where it is all zero: nothing, a ``"proportional"`` sum (felt
            through the stabiliser alone), or a ``"conserving"`` sum, which rescales the relevance of the scores to the
            total of that of the probabilities, as the authors' BERT does.
        carries: Whether relevance may reach Q, K and V; the share of a constant goes to the other operand.

    Returns:
        Relevance of Q, K and V. Memory: one block of query rows by keys.
    """
    n_groups = query.shape[-3] // key.shape[-3]
    keys, values = (t if n_groups == 1 else t.repeat_interleave(n_groups, dim=-3) for t in (key, value))
    to_probs, to_value = halves(carries[0] or carries[1], carries[2])
    to_query, to_key = halves(carries[0], carries[1])
    share = divide(relevance, output)
    of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
    before = after = torch.zeros(len(query), *(1,) * (query.dim() - 1), dtype=query.dtype, device=query.device)
    for rows in _row_blocks(query, keys):
        probs = attention_probabilities(query, keys, mask=mask, is_causal=is_causal, scale=scale, rows=rows)
        part, part_query = share.index_select(-2, rows), query.index_select(-2, rows)
        of_value += probs.mT @ part
        of_probs = 2 * to_probs * probability_relevance(probs, share, values, rows)
        scores = part_query @ keys.mT
        if mask_sum != "ignored":
            before = before + per_sample_sum(of_probs)
            of_probs = divide.damp(of_probs, scores * (query.shape[-1] ** -0.5 if scale is None else scale))
            after = after + per_sample_sum(of_probs)
        score_share = divide(of_probs, scores)
        of_query.index_copy_(-2, rows, to_query * part_query * (score_share @ keys))
        of_key += score_share.mT @ part_query
    of_key, of_value = to_key * keys * of_key, to_value * values * of_value
    if mask_sum == "conserving":
        factor = divide(divide(after.abs(), after.abs()) * before, after)
        of_query, of_key = of_query * factor, of_key * factor
    return of_query, _sum_groups(of_key, n_groups), _sum_groups(of_value, n_groups)


def _row_blocks(query: Tensor, key: Tensor) -> Iterator[Tensor]:
    bytes_per_row = query.shape[:-2].numel() * key.shape[-2] * query.element_size()
    step = max(1, BLOCK_BYTES // max(1, bytes_per_row))
    yield from torch.split(torch.arange(query.shape[-2], device=query.device), step)


def _sum_groups(relevance: Tensor, n_groups: int) -> Tensor:
    return relevance if n_groups == 1 else relevance.unfold(-3, n_groups, n_groups).sum(-1)
