"""Attention rollout: how much of each input token reaches each output token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from attrib_plugin.functional.choices import check_choice

if TYPE_CHECKING:
    from jaxtyping import Float, Int

RowNormalization = bool | Literal["vit_explain"]
ROW_NORMALIZATIONS: tuple[RowNormalization, ...] = (True, False, "vit_explain")
Spare = Literal["nothing", "first_entry", "first_token"]
SPARES: tuple[Spare, ...] = get_args(Spare)


def mix_residual(
    attention: Float[Tensor, "*batch query key"],
    weight: float = 0.5,
    *,
    rows: Int[Tensor, " query"] | None = None,
    row_normalize: RowNormalization = True,
    out: Tensor | None = None,
) -> Float[Tensor, "*batch query key"]:
    """Residual-adjusted attention: (1 - weight)·A + weight·I, rows normalised to sum to one.

    For row-stochastic attention the normalisation changes nothing. It matters after ``max`` or ``min``
    fusion and after discarding entries.

    Args:
        attention: One non-negative map, already fused over heads.
        weight: Share of the identity (the residual path), between 0 and 1.
        rows: Which token each row of ``attention`` belongs to; ``None`` when all rows are there.
        row_normalize: True divides each row by its sum, False leaves the mixture, ``"vit_explain"`` divides column j
            by the sum of row j, as vit-explain does by mistake.
        out: Memory of the shape of ``attention`` for the result, which may be that of ``attention``.

    Returns:
        The mixed map; every row sums to one, or is zero where ``attention`` is zero and ``weight`` is 0.

    Raises:
        ValueError: If ``weight`` is outside 0 to 1, the map is not square while ``rows`` is ``None``, or
            ``row_normalize`` is unknown, or ``"vit_explain"`` with some rows only.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, section 3 (weight 0.5).
    """
    check_choice("row_normalize", row_normalize, ROW_NORMALIZATIONS)
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"residual must be between 0 and 1, not {weight}.")
    n_queries, n_keys = attention.shape[-2:]
    if rows is None and n_queries != n_keys:
        raise ValueError(f"attention must map N tokens to the same N tokens, not {n_keys} to {n_queries}.")
    queries = torch.arange(n_queries, device=attention.device)
    mixed = torch.mul(attention, 1.0 - weight, out=out)
    mixed[..., queries, queries if rows is None else rows] += weight
    if not row_normalize:
        return mixed
    sums = mixed.sum(-1, keepdim=True)
    sums = torch.where(sums > 0, sums, torch.ones_like(sums))
    return torch.div(mixed, by_column(sums, rows) if row_normalize == "vit_explain" else sums, out=out)


def attention_rollout(
    attention: Float[Tensor, "layer batch token token"],
    *,
    residual: float = 0.5,
    start_layer: int = 0,
    row_normalize: RowNormalization = True,
) -> Float[Tensor, "batch token token"]:
    """Trace attention through all layers by matrix product.

    Each layer is mixed with the identity (the residual path); layers are then multiplied from the input
    upwards, with later layers on the left.

    Args:
        attention: Probabilities fused over heads; rows are queries.
        residual: Share of the identity in each layer, between 0 and 1.
        start_layer: First layer of the product, from 0; layers below it are left out.
        row_normalize: As in :func:`mix_residual`.

    Returns:
        Share of input token (last axis) in output token; every row sums to one.

    Raises:
        ValueError: If ``residual`` is outside 0 to 1, ``start_layer`` is no layer, or ``row_normalize`` is unknown.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, equation 1.
    """
    layers = [
        mix_residual(layer, residual, row_normalize=row_normalize) for layer in layers_from(attention, start_layer)
    ]
    rolled = layers[0]
    for layer in layers[1:]:
        rolled = layer @ rolled
    return rolled


def attention_rollout_rows(
    attention: Float[Tensor, "layer batch token token"],
    readout: Float[Tensor, "batch row token"],
    *,
    residual: float = 0.5,
    start_layer: int = 0,
    row_normalize: RowNormalization = True,
) -> Float[Tensor, "batch row token"]:
    """Rows of :func:`attention_rollout`, from the top layer down, without any matrix product.

    Args:
        attention: Probabilities fused over heads; rows are queries.
        readout: Weights over output tokens, one combination a row; a one-hot row picks a token.
        residual: Share of the identity in each layer, between 0 and 1.
        start_layer: First layer of the product, from 0.
        row_normalize: As in :func:`mix_residual`.

    Returns:
        ``readout @ attention_rollout(attention)``; rows sum to what the rows of ``readout`` sum to.

    Raises:
        ValueError: If ``residual`` is outside 0 to 1, ``start_layer`` is no layer, or ``row_normalize`` is unknown.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, equation 1, read from the output side.
    """
    for layer in reversed(layers_from(attention, start_layer)):
        readout = readout @ mix_residual(layer, residual, row_normalize=row_normalize)
    return readout


def discard_lowest(
    attention: Float[Tensor, "batch token token"],
    ratio: float,
    *,
    padding: Tensor | None = None,
    pairs: Tensor | None = None,
    spare: Spare = "nothing",
) -> Float[Tensor, "batch token token"]:
    """Set the smallest entries of every map to zero.

    Args:
        attention: One non-negative map a sample.
        ratio: Share of the entries to discard, from 0 up to but not including 1, rounded down. Entries between real
            tokens are counted and discarded for each sample by itself; of equal entries the earlier go first.
        padding: True at padding tokens, ``batch token``.
        pairs: Entries that can be attention at all, ``token token``; others are not counted. ``None`` for all.
        spare: What is kept though it is among the smallest: ``"nothing"``, ``"first_entry"`` (of the first real token
            for itself) or ``"first_token"`` (its row and its column).

    Returns:
        The thinned map; rows no longer sum to one.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1), or ``spare`` is unknown.

    Reference:
        The discard ratio of vit-explain (2020); there it is taken over a batch's first sample only.
    """
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"discard_ratio must be at least 0 and below 1, not {ratio}.")
    batch, n_tokens = attention.shape[:2]
    real = attention.new_ones(batch, n_tokens, dtype=torch.bool) if padding is None else ~padding
    among = real[:, :, None] & real[:, None, :]
    counted = (among if pairs is None else among & pairs).flatten(1)
    # Python's own product, since a ratio in float32 would round some counts up.
    counts = [int(n_pairs * ratio) for n_pairs in counted.sum(-1).tolist()]
    order = attention.flatten(1).masked_fill(~counted, torch.inf).argsort(dim=-1, stable=True)
    ranks = torch.empty_like(order).scatter_(-1, order, torch.arange(n_tokens**2, device=order.device).expand_as(order))
    kept = (ranks >= torch.tensor(counts, device=order.device)[:, None]).reshape_as(attention)
    return attention * (kept | _spared(real, spare))


def by_column(
    row_sums: Float[Tensor, "*batch token 1"], rows: Int[Tensor, " query"] | None
) -> Float[Tensor, "*batch 1 token"]:
    """Sums of rows laid along the columns, so that dividing by them divides column j by the sum of row j.

    Args:
        row_sums: Sums of all rows.
        rows: Must be ``None``.

    Returns:
        The sums, transposed.

    Raises:
        ValueError: If only some rows are there.
    """
    if rows is not None:
        raise ValueError("row_normalize='vit_explain' divides columns by sums of rows: it needs all rows.")
    return row_sums.transpose(-1, -2)


def layers_from(layers: Tensor, start_layer: int) -> Tensor:
    """Layers from ``start_layer`` upwards.

    Args:
        layers: Any tensor with layers on its first axis.
        start_layer: First layer kept, from 0.

    Returns:
        The upper layers, at least one.

    Raises:
        ValueError: If ``start_layer`` is no layer.
    """
    if not 0 <= start_layer < len(layers):
        raise ValueError(
            f"start_layer must be one of the {len(layers)} layers 0 to {len(layers) - 1}, not {start_layer}."
        )
    return layers[start_layer:]


def _spared(real: Tensor, spare: Spare) -> Tensor:
    check_choice("spare", spare, SPARES)
    positions = torch.arange(real.shape[-1], device=real.device)
    first = positions == real.int().argmax(-1, keepdim=True)
    if spare == "first_entry":
        return first[:, :, None] & first[:, None, :]
    if spare == "first_token":
        return first[:, :, None] | first[:, None, :]
    return torch.zeros_like(first)[:, :, None]
