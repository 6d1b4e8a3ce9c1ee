"""Attention flow: the maximum flow from input tokens to output tokens through the layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attrib_plugin.functional.flow.engines import EngineName, choose_engine, progress_of
from attrib_plugin.functional.flow.network import Network, check_attention, sample_network
from attrib_plugin.functional.flow.pairs import flow_rows
from attrib_plugin.functional.flow.problems import Engine, Tick

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray

Outputs = int | Sequence[int] | Tensor | None
"""An output token, several, or ``None`` for all of them."""


def attention_flow(
    attention: Float[Tensor, "layer batch token token"],
    *,
    residual: float | None = 0.5,
    outputs: Outputs = None,
    normalize: bool = False,
    engine: EngineName = "auto",
    progress: bool | None = None,
) -> Float[Tensor, "batch output token"]:
    """Maximum flow from every input token to output tokens, through layers whose capacities are attention.

    Exact for any non-negative capacities: each value is the capacity of a cut, and a flow that agrees with it to 1e-9
    was found and checked edge by edge; otherwise an error is raised.

    Cost: with all outputs or one, about O(L N²) on attention that mixes well and more where it is peaky; in float64 on
    the CPU, sample by sample. Memory: capacities of one sample in float64, a copy to work in, and half a copy.

    Args:
        attention: Non-negative, fused over heads; rows are queries.
        residual: Share of the identity in each layer, between 0 and 1; rows are normalised as in rollout. ``None``
            takes ``attention`` as capacities as it is.
        outputs: Output tokens, counted from 0 or from -1 backwards; ``None`` is all.
        normalize: Divide every row by its sum, as the authors' code does; rows of zeros stay.
        engine: ``"scipy"``, ``"numba"`` (extra ``flow``), or ``"auto"``: numba where it is installed and worth it.
            Both give the same values.
        progress: Show a progress bar; ``None`` shows one after a second.

    Returns:
        Flow of input token (last axis) to output token, in units of capacity: at most the sum of the input token's
        column in the first layer, and of the output token's row in the last. Rows do not sum to one.

    Raises:
        ValueError: If ``attention`` or an option is impossible.
        ImportError: If numba was asked for by name and is not installed.
        ArithmeticError: If a value could not be certified.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, section 3 (attention flow). How it is computed is ours.
    """

    def rows(network: Network, chosen: list[int], solve: Engine, tick: Tick) -> NDArray[np.float64]:
        return _normalized(flow_rows(network, chosen, solve, tick), normalize)

    return flows_of_samples(attention, rows, residual=residual, outputs=outputs, engine=engine, progress=progress)


def attention_flow_by_layer(
    attention: Float[Tensor, "layer batch token token"],
    *,
    residual: float | None = 0.5,
    outputs: Outputs = None,
    normalize: bool = False,
    engine: EngineName = "auto",
    progress: bool | None = None,
) -> Float[Tensor, "layer batch output token"]:
    """Attention flow to the tokens after every layer: as :func:`attention_flow`, had the model ended there.

    Cost: that of :func:`attention_flow` for every layer; the third to fifth take longest, as there flow is least often
    one of the obvious cuts.

    Args:
        attention: As in :func:`attention_flow`.
        residual: As in :func:`attention_flow`.
        outputs: As in :func:`attention_flow`.
        normalize: As in :func:`attention_flow`.
        engine: As in :func:`attention_flow`.
        progress: As in :func:`attention_flow`.

    Returns:
        Flow of input token (last axis) to the output token after each layer (first axis); the last is
        :func:`attention_flow`.

    Raises:
        ValueError: If ``attention`` or an option is impossible.
        ImportError: If numba was asked for by name and is not installed.
        ArithmeticError: If a value could not be certified.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, section 3 (attention flow).
    """

    def rows(network: Network, chosen: list[int], solve: Engine, tick: Tick) -> NDArray[np.float64]:
        parts = (network.below(depth) for depth in range(1, network.depth + 1))
        return _normalized(np.stack([flow_rows(part, chosen, solve, tick) for part in parts]), normalize)

    check_attention(attention)
    flows = flows_of_samples(
        attention,
        rows,
        residual=residual,
        outputs=outputs,
        engine=engine,
        progress=progress,
        leading=(len(attention),),
    )
    return flows.transpose(0, 1)


def flows_of_samples(
    attention: Tensor,
    rows: Callable[[Network, list[int], Engine, Tick], NDArray[np.float64]],
    *,
    residual: float | None,
    outputs: Outputs,
    engine: EngineName,
    progress: bool | None,
    leading: tuple[int, ...] = (),
) -> Tensor:
    """Check the arguments, and run a formula on the network of every sample.

    Args:
        attention: ``layer batch query key``.
        rows: From a network, output tokens, an engine and a progress function to ``... output token``.
        residual: Share of the residual path, or ``None`` to take the values as capacities.
        outputs: Which output tokens.
        engine: What solves.
        progress: Whether a progress bar is shown.
        leading: Axes that ``rows`` puts before these two.

    Returns:
        ``batch ... output token``, on the device of ``attention``; half precision becomes float32.

    Raises:
        ValueError: If an argument is impossible.
    """
    check_attention(attention)
    n_samples, n_tokens = attention.shape[1], attention.shape[-1]
    chosen = output_tokens(outputs, n_tokens)
    different = sorted(set(chosen))
    places = [different.index(token) for token in chosen]
    solve = choose_engine(engine, attention.shape[0] * n_tokens**2 * len(different) * n_samples)
    flows = np.zeros((n_samples, *leading, len(chosen), n_tokens))
    with progress_of(n_samples * math.prod(leading) * len(different) * n_tokens, progress) as tick:
        for sample in range(n_samples):
            network = sample_network(attention, sample, residual)
            flows[sample] = rows(network, different, solve, tick)[..., places, :]
    dtype = attention.dtype if attention.dtype in (torch.float32, torch.float64) else torch.float32
    return torch.from_numpy(flows).to(attention.device, dtype)


def output_tokens(outputs: Outputs, n_tokens: int) -> list[int]:
    """The output tokens that are asked for, counted from 0.

    Args:
        outputs: What the user gave.
        n_tokens: Number of tokens.

    Returns:
        Token numbers.

    Raises:
        ValueError: If one is no token.
    """
    if outputs is None:
        return list(range(n_tokens))
    given = outputs.flatten().tolist() if isinstance(outputs, Tensor) else outputs
    tokens = list(given) if isinstance(given, Sequence) else [given]
    for token in tokens:
        is_number = isinstance(token, (int, np.integer)) and not isinstance(token, bool)
        if not is_number or not -n_tokens <= token < n_tokens:
            raise ValueError(
                f"outputs must be tokens between 0 and {n_tokens - 1} (or from -1 backwards), not {token!r}."
            )
    return [int(token) % n_tokens for token in tokens]


def _normalized(rows: NDArray[np.float64], normalize: bool) -> NDArray[np.float64]:
    if not normalize:
        return rows
    sums = rows.sum(-1, keepdims=True)
    return rows / np.where(sums > 0.0, sums, 1.0)
