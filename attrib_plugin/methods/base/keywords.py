"""Keyword arguments of the model, checked before it is run: masks, positions, token types and caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.families import Member

# One value a token, of the text that is explained.
_BY_TOKEN = ("attention_mask", "token_type_ids")


def checked_keywords(keywords: Any) -> dict[str, Any]:
    """The keyword arguments as a dictionary of their own.

    Args:
        keywords: What the user gave.

    Returns:
        Values by name.

    Raises:
        InputError: If they are no mapping, or one of them is a cache.
    """
    if keywords is not None and not isinstance(keywords, Mapping):
        raise InputError(
            f"Expected forward_kwargs to be a mapping of names to values, found {type(keywords).__name__}: give "
            'forward_kwargs={"attention_mask": mask}, or positional arguments as additional_forward_args.'
        )
    found = dict(keywords or {})
    _check_no_cache(found)
    return found


def check_keyword_values(keywords: Mapping[str, Any], inputs: Tensor, member: Member) -> None:
    """Check that tensors among the keywords fit the input and the model.

    Args:
        keywords: Values by name.
        inputs: The checked input.
        member: The recognised model.

    Raises:
        InputError: If some value does not.
    """
    for name, value in keywords.items():
        if name in _BY_TOKEN and value is not None and not isinstance(value, Tensor):
            raise InputError(f"Expected forward_kwargs[{name!r}] to be a tensor, found {type(value).__name__}.")
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        _check_shape(name, value, inputs)
        if value.is_floating_point() and torch.isnan(value).any():
            raise InputError(f"forward_kwargs[{name!r}] holds NaN.")
        _check_ids(name, value, member)


def _check_no_cache(keywords: Mapping[str, Any]) -> None:
    # Models add to a cache while they run, so it must not reach them: the user's would be longer afterwards.
    for name in ("past_key_values", "cache"):
        given = keywords.get(name)
        if given is not None and (name == "past_key_values" or hasattr(given, "get_seq_length")):
            raise InputError(
                f"forward_kwargs[{name!r}] is a cache of keys, whose tokens are not among the inputs and could have no "
                "relevance. Give all tokens as inputs, and no cache."
            )


def _check_shape(name: str, value: Tensor, inputs: Tensor) -> None:
    # One value a token, the same for all samples, is the only vector that is not per sample.
    lengths = (1, len(inputs)) if value.dim() > 1 else (1, len(inputs), inputs.shape[1])
    if len(value) not in lengths:
        raise InputError(
            f"forward_kwargs[{name!r}] has {len(value)} rows for {len(inputs)} samples. NoiseTunnel repeats "
            "samples but not this keyword: give such tensors as additional_forward_args, which it does repeat."
        )
    # Some models pad a short mask themselves, and so take real tokens for padding.
    if name in _BY_TOKEN and value.dim() == 2 and inputs.dim() < 4 and value.shape[1] != inputs.shape[1]:
        raise InputError(
            f"forward_kwargs[{name!r}] is for {value.shape[1]} tokens, but the input has {inputs.shape[1]}."
        )


def _check_ids(name: str, value: Tensor, member: Member) -> None:
    """Ids of token types and of positions, which end in an error about an index otherwise."""
    config = getattr(member.module, "config", None)
    limits = {"token_type_ids": "type_vocab_size", "position_ids": "max_position_embeddings"}
    limit = getattr(config, limits.get(name, ""), None)
    # Models that turn positions into angles take any; only tables have an end, and the family knows of those.
    if name == "position_ids" and (member.family.modality != "text" or member.family.max_tokens(member.module) is None):
        return
    if not isinstance(limit, int) or limit < 1 or value.is_floating_point():
        return
    lowest, highest = int(value.min()), int(value.max())
    if lowest < 0 or highest >= limit:
        wrong = lowest if lowest < 0 else highest
        raise InputError(
            f"forward_kwargs[{name!r}] holds {wrong}, but {type(member.module).__name__} knows 0 to {limit - 1}."
        )
