"""Which tokens of a forward pass stand for a part of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrib_plugin.records import TokenLayout

if TYPE_CHECKING:
    from jaxtyping import Bool


def input_tokens(layout: TokenLayout) -> Bool[Tensor, "batch token"]:
    """Tokens that are neither prefix nor padding.

    Args:
        layout: Meaning of the tokens.

    Returns:
        True at patches of an image, and at the real tokens of a text, special ones included.
    """
    chosen = torch.ones_like(layout.readout, dtype=torch.bool)
    chosen[:, : layout.prefix_tokens] = False
    return chosen if layout.padding is None else chosen & ~layout.padding
