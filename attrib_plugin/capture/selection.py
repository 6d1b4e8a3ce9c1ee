"""Which recorded calls are attention from every token to every token; everything else is refused."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from attrib_plugin.capture.reading import call_probabilities
from attrib_plugin.errors import UnsupportedAttentionError
from attrib_plugin.records import AttentionCall


def token_to_token(calls: tuple[AttentionCall, ...], *, allow_pooling: bool) -> tuple[AttentionCall, ...]:
    """The self-attention calls over one sequence of tokens.

    Args:
        calls: All calls of a forward pass.
        allow_pooling: Whether pooling attention after the last layer may be left aside, because it is known what
            is read out.

    Returns:
        The self-attention calls, in order, all over the same number of tokens, unless they have a placement.

    Raises:
        UnsupportedAttentionError: If other attention takes part, layers run side by side, the number of tokens
            changes or samples are cut into windows without a placement, or rows are no probabilities.
    """
    chosen = tuple(call for call in calls if call.kind in ("self", "causal"))
    top = chosen[-1].index if chosen else len(calls)
    aside = [call for call in calls if call.kind == "pool" and allow_pooling and call.index > top]
    other = [call for call in calls if call not in chosen and call not in aside]
    if other:
        remedy = " Say what it reads with readout=weights." if other[0].kind == "pool" and not allow_pooling else ""
        if any(call.kind == "cross" for call in other):
            remedy = (
                " If this is an encoder with a decoder, EncoderDecoderRelevance follows its cross-attention. If keys "
                "of earlier tokens come from a cache or a trained prefix, give all tokens as inputs in their place."
            )
        raise UnsupportedAttentionError(
            f"{other[0].name!r} is {other[0].kind} attention ({len(other)} of {len(calls)} calls); this method follows "
            f"self-attention over one sequence of tokens.{remedy}"
        )
    if not chosen:
        raise UnsupportedAttentionError(f"None of the {len(calls)} attention calls is self-attention over tokens.")
    sizes = Counter(_n_tokens(call) for call in chosen if call.placement is None)
    if len(sizes) > 1:
        raise UnsupportedAttentionError(
            f"The number of tokens changes between layers ({', '.join(map(str, sizes))}): hierarchical attention "
            "cannot be followed from token to token by this method."
        )
    _check_one_after_another(chosen)
    for call in chosen:
        _check_samples(call)
        _check_probabilities(call)
    return chosen


def pooling_weights(calls: tuple[AttentionCall, ...]) -> Tensor | None:
    """How much of each token the attention pooling of a model reads.

    Args:
        calls: All calls of a forward pass.

    Returns:
        Probabilities ``batch token`` averaged over heads; ``None`` unless exactly one call pools with one query.
    """
    pools = [call for call in calls if call.kind == "pool"]
    if len(pools) != 1:
        return None
    probabilities = call_probabilities(pools[0])
    return probabilities.mean(1)[:, 0] if probabilities.shape[-2] == 1 else None


def n_tokens(calls: tuple[AttentionCall, ...]) -> int:
    """Number of tokens that the last of the calls attends over.

    Args:
        calls: Calls chosen by :func:`token_to_token`.

    Returns:
        The number of tokens, prefix included.
    """
    placement = calls[-1].placement
    return _n_tokens(calls[0]) if placement is None else placement.n_tokens


def _n_tokens(call: AttentionCall) -> int:
    tensor = call.query if call.weights is None else call.weights
    return 0 if tensor is None else tensor.shape[-2]


def _check_one_after_another(calls: tuple[AttentionCall, ...]) -> None:
    values = Counter((call.name, call.value.data_ptr()) for call in calls if call.value is not None)
    if values and max(values.values()) > 1:
        raise UnsupportedAttentionError(
            "Several attention calls weigh the same values side by side (differential attention), so they are no "
            "layers one after another and cannot be followed from token to token."
        )


def _check_samples(call: AttentionCall) -> None:
    tensor = call.query if call.weights is None else call.weights
    if tensor is None or (tensor.dim() == 4 and len(tensor) != call.batch_size):
        shape = None if tensor is None else tuple(tensor.shape)
        raise UnsupportedAttentionError(
            f"Attention of {call.name!r} has shape {shape} for {call.batch_size} samples. Expected (batch, head, "
            "token, dim); windowed attention cannot be followed from token to token in a model that no family of "
            "windowed models (Swin) knows."
        )


def _check_probabilities(call: AttentionCall) -> None:
    if call.weights is None:
        return
    sums = call.weights.float().sum(-1)
    # Half precision rounds sums by up to 1e-2; dropout in training mode has its own warning.
    if not (((sums - 1).abs() < 2e-2) | (sums == 0)).all() and not call.in_training:
        raise UnsupportedAttentionError(
            f"The rows of attention {call.name!r} do not sum to one (from {sums.min():.3g} to {sums.max():.3g}), so it "
            "is no attention from token to token (talking heads, channel attention, gates)."
        )
