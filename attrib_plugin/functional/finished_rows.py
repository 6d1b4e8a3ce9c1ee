"""What implementations do to a finished row of relevance before they hand it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from attrib_plugin.functional.choices import check_choice

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Special = Literal["keep", "zero_first", "min_first", "zero_ends"]
SPECIALS: tuple[Special, ...] = get_args(Special)
Divisor = Literal["nothing", "max"]
DIVISORS: tuple[Divisor, ...] = get_args(Divisor)


def overwrite_special(
    relevance: Float[Tensor, "batch token"],
    how: Special = "keep",
    *,
    padding: Bool[Tensor, "batch token"] | None = None,
) -> Float[Tensor, "batch token"]:
    """Overwrite the relevance of special tokens at the ends of a text.

    Args:
        relevance: One value a token.
        how: ``"keep"`` changes nothing; ``"zero_first"`` sets the first token (a class token) to zero, ``"min_first"``
            to the smallest value of the row, padding included; ``"zero_ends"`` sets the first and the last token to
            zero.
        padding: True at padding tokens, which are neither first nor last.

    Returns:
        The relevance, in its own units.

    Raises:
        ValueError: If ``how`` is unknown.

    Reference:
        Code of Chefer, Gur and Wolf 2021a, arXiv:2012.09838, for BERT (``"zero_first"`` and ``"min_first"``).
    """
    check_choice("special", how, SPECIALS)
    if how == "keep":
        return relevance
    real = torch.ones_like(relevance, dtype=torch.bool) if padding is None else ~padding
    order = real.cumsum(-1)
    overwritten = real & (order == 1)
    if how == "zero_ends":
        overwritten = overwritten | (real & (order == order[:, -1:]))
    smallest = relevance.amin(-1, keepdim=True)
    return torch.where(overwritten, smallest if how == "min_first" else torch.zeros_like(smallest), relevance)


def divide_rows(
    relevance: Float[Tensor, "batch token"], by: Divisor = "nothing", *, prefix_tokens: int = 0
) -> Float[Tensor, "batch token"]:
    """Divide the relevance of each sample by its largest value.

    Args:
        relevance: One value a token.
        by: ``"nothing"``, or ``"max"``: the largest value of a token that is no prefix token.
        prefix_tokens: Leading tokens that are no patches.

    Returns:
        Relevance without a unit for ``"max"``, the largest value 1; a sample without a positive value is left as it is.

    Raises:
        ValueError: If ``by`` is unknown.

    Reference:
        vit-explain (2020) and the Keras example on probing vision transformers.
    """
    check_choice("divide_by", by, DIVISORS)
    if by == "nothing":
        return relevance
    largest = relevance[:, prefix_tokens:].amax(-1, keepdim=True)
    return relevance / torch.where(largest > 0, largest, torch.ones_like(largest))
