"""Perturbations of token ids, in the calling conventions of Captum's metrics.

Captum's own perturbations add small real numbers, which no token id can take. A :class:`TokenPerturbation` replaces
whole tokens instead:

```python
swap = TokenSwap(range(len(tokenizer)), keep=tokenizer.all_special_ids, seed=0)
sensitivity_max(method.attribute, ids, perturb_func=swap.for_sensitivity, target=1)

mask = TokenMask(tokenizer.mask_token_id, keep=tokenizer.all_special_ids, seed=0)
infidelity(score, mask.for_infidelity, ids, relevance)
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrib_plugin.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class TokenPerturbation(ABC):
    """Replaces a share of the tokens of every text.

    Args:
        share: Share of the replaceable tokens of a text that is replaced, above 0 and up to 1; at least one token.
        keep: Ids that are never replaced and never drawn: padding, start, end and separator tokens.
        seed: Makes the sequence of draws of this object repeatable; ``None`` follows torch's global seed.

    Raises:
        InputError: If ``share`` is not above 0 and at most 1.
    """

    def __init__(self, *, share: float = 0.1, keep: Iterable[int] = (), seed: int | None = None) -> None:
        if not 0.0 < share <= 1.0:
            raise InputError(f"share must be above 0 and at most 1, not {share}.")
        self.share = share
        self.keep = torch.tensor(sorted(set(keep)), dtype=torch.long)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    @abstractmethod
    def _replacements(self, ids: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
        """What each token would become; never the token itself. On the CPU, like ``ids``."""

    def perturb(self, ids: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
        """Replace tokens at places drawn anew for every text.

        Args:
            ids: Token ids.

        Returns:
            Token ids of the same shape, dtype and device.

        Raises:
            InputError: If ``ids`` are not integers (B,T), or a text has no token that may be replaced.
        """
        if ids.dim() != 2 or ids.is_floating_point() or ids.dtype is torch.bool:
            raise InputError(
                f"Expected token ids (B, T) of an integer dtype, found {ids.dtype} {tuple(ids.shape)}. Captum's own "
                "perturbations serve for images and embeddings."
            )
        local = ids.detach().cpu().long()
        perturbed = torch.where(self._chosen(local), self._replacements(local), local)
        return perturbed.to(device=ids.device, dtype=ids.dtype)

    def for_sensitivity(self, inputs: Tensor, perturb_radius: float = 0.02) -> tuple[Tensor]:
        """The ``perturb_func`` of ``captum.metrics.sensitivity_max``.

        Args:
            inputs: Token ids (B,T), each text repeated by Captum for every draw.
            perturb_radius: Captum always passes its radius; tokens have no distance, so ``share`` decides.

        Returns:
            Perturbed token ids, in the tuple that ``sensitivity_max`` hands on to ``attribute``.
        """
        return (self.perturb(inputs),)

    def for_infidelity(self, inputs: Tensor) -> tuple[Float[Tensor, "batch token"], Int[Tensor, "batch token"]]:
        """The ``perturb_func`` of ``captum.metrics.infidelity``.

        Args:
            inputs: Token ids (B,T), each text repeated by Captum for every draw.

        Returns:
            The perturbation, 1 where a token was replaced and 0 elsewhere, so that its product with a map is the
            relevance of the replaced tokens; and the perturbed token ids.
        """
        perturbed = self.perturb(inputs)
        return (perturbed != inputs).float(), perturbed

    def _chosen(self, ids: Tensor) -> Tensor:
        """True at the tokens to replace, (B,T)."""
        replaceable = ~torch.isin(ids, self.keep)
        available = replaceable.sum(-1, keepdim=True)
        if (available == 0).any():
            raise InputError(
                f"Text {int((available == 0).flatten().nonzero()[0])} has no token that may be replaced: all of its "
                "ids are listed in keep."
            )
        wanted = (available * self.share).round().clamp(min=1)
        lottery = self._uniform(ids).masked_fill(~replaceable, torch.inf)
        return lottery.argsort(-1).argsort(-1) < wanted

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self._generator, dtype=torch.float64)


class TokenSwap(TokenPerturbation):
    """Replaces tokens by other tokens of the vocabulary, every one equally likely.

    Args:
        vocabulary: Ids to draw from, such as ``range(len(tokenizer))``; those in ``keep`` are left out.
        share: Share of the replaceable tokens of a text that is replaced, above 0 and up to 1; at least one token.
        keep: Ids that are never replaced and never drawn.
        seed: Makes the sequence of draws of this object repeatable; ``None`` follows torch's global seed.

    Raises:
        InputError: If ``share`` is not above 0 and at most 1, or fewer than two ids remain to draw from.
    """

    def __init__(
        self, vocabulary: Iterable[int], *, share: float = 0.1, keep: Iterable[int] = (), seed: int | None = None
    ) -> None:
        super().__init__(share=share, keep=keep, seed=seed)
        self.vocabulary = torch.tensor(sorted(set(vocabulary) - set(self.keep.tolist())), dtype=torch.long)
        if len(self.vocabulary) < 2:
            raise InputError(
                f"Expected at least two ids to draw from, found {len(self.vocabulary)} outside keep. Give "
                "vocabulary=range(len(tokenizer))."
            )

    def _replacements(self, ids: Tensor) -> Tensor:
        # A draw among the others: from one fewer, skipping the token's own place.
        own = torch.searchsorted(self.vocabulary, ids).clamp(max=len(self.vocabulary) - 1)
        is_listed = self.vocabulary[own] == ids
        drawn = (self._uniform(ids) * (len(self.vocabulary) - is_listed.long())).long()
        return self.vocabulary[drawn + (is_listed & (drawn >= own))]


class TokenMask(TokenPerturbation):
    """Replaces tokens by one token: the mask token, or the unknown or padding token of models without one.

    Args:
        mask_id: The replacement; tokens that are it already are kept.
        share: Share of the replaceable tokens of a text that is replaced, above 0 and up to 1; at least one token.
        keep: Ids that are never replaced.
        seed: Makes the sequence of draws of this object repeatable; ``None`` follows torch's global seed.

    Raises:
        InputError: If ``share`` is not above 0 and at most 1.
    """

    def __init__(self, mask_id: int, *, share: float = 0.1, keep: Iterable[int] = (), seed: int | None = None) -> None:
        super().__init__(share=share, keep=(*keep, mask_id), seed=seed)
        self.mask_id = mask_id

    def _replacements(self, ids: Tensor) -> Tensor:
        return torch.full_like(ids, self.mask_id)
