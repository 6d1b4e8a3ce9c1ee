"""Attention computed in the open: what the proofs of the sweep compare the package with.

`OpenAttention` replaces the fused function and the softmax of torch by ones that keep their probabilities in the graph,
so that autograd gives the gradients. It shares no code with the package's capture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib_plugin.methods.base import unwrap_output

RELATIVE = 1e-3
"""Tolerance, relative to the largest entry: models run in float32."""


@dataclass(frozen=True, eq=False)
class Case:
    """One model and one batch of inputs.

    Attributes:
        model: The model, in evaluation mode.
        inputs: Images, or token ids padded to ``LENGTHS``.
        keywords: Keyword arguments of the model, one row a sample.
        options: Constructor options of the methods.
    """

    model: nn.Module
    inputs: Tensor
    keywords: Mapping[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, inputs: Tensor | None = None) -> Tensor:
        """Scores of the model for its own or for other inputs."""
        return unwrap_output(self.model(self.inputs if inputs is None else inputs, **self.keywords))

    @property
    def target(self) -> Any:
        """Class 1, or the second entry on every axis after the batch."""
        with torch.no_grad():
            axes = self.run().dim() - 1
        return 1 if axes == 1 else (1,) * axes

    def score(self, output: Tensor) -> Tensor:
        """The sum over samples of what ``target`` selects."""
        return output[(slice(None), *([1] * (output.dim() - 1)))].sum()


class OpenAttention:
    """Attention whose probabilities stay in the graph, for every model run inside the block.

    Args:
        edit: Given the number of a call and its probabilities, returns those to use instead.

    Attributes:
        probabilities: Of every call, in order.
        tokens: What each token alone decides in every call (batch, token, feature): its query, or its score for
            itself.
        places: The same, but beside the score for the first token, since some models shift all scores of a row.
    """

    def __init__(self, edit: Callable[[int, Tensor], Tensor] = lambda number, probabilities: probabilities) -> None:
        self.probabilities: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.places: list[Tensor] = []
        self._edit = edit
        self._inside = False
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> "OpenAttention":
        self._softmax = torch.softmax
        for home, name in ((F, "softmax"), (torch, "softmax"), (torch.special, "softmax"), (torch.Tensor, "softmax")):
            self._put(home, name, self._open_softmax(getattr(home, name)))
        self._put(F, "scaled_dot_product_attention", self._open_attention)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._undo.append(lambda: torch.backends.mha.set_fastpath_enabled(fast))
        return self

    def __exit__(self, *error: object) -> None:
        for undo in reversed(self._undo):
            undo()

    def _put(self, home: Any, name: str, function: Callable[..., Any]) -> None:
        own = home.__dict__.get(name)
        setattr(home, name, function)
        self._undo.append(lambda: delattr(home, name) if own is None else setattr(home, name, own))

    def _open_softmax(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def softmax(*args: Any, **keywords: Any) -> Tensor:
            if self._inside:
                return original(*args, **keywords)
            self._inside = True
            try:
                out = original(*args, **keywords)
            finally:
                self._inside = False
            dim = keywords.get("dim", args[1] if len(args) > 1 else None)
            if out.dim() < 3 or dim not in (-1, out.dim() - 1):
                return out
            scores = args[0] if args else keywords["input"]
            if scores.shape[-1] != scores.shape[-2]:
                return self._keep(out, None, None)
            own = scores.diagonal(dim1=-2, dim2=-1)[..., None]
            return self._keep(out, own, own - scores[..., :1])

        return softmax

    def _open_attention(  # noqa: PLR0917 - the signature of scaled_dot_product_attention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        probabilities = self._softmax(scores, -1).masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0)
        tokens = query if query.shape[-2] == key.shape[-2] else None
        return self._keep(probabilities, tokens, tokens) @ value

    def _keep(self, probabilities: Tensor, tokens: Tensor | None, places: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and not probabilities.requires_grad:
            probabilities = probabilities.detach().requires_grad_()
        self.tokens.append(torch.empty(0) if tokens is None else tokens)
        self.places.append(torch.empty(0) if places is None else places)
        self.probabilities.append(probabilities)
        return self._edit(len(self.probabilities) - 1, probabilities)


def agree(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal within the tolerance.

    Args:
        first: Any tensor.
        second: Of as many entries, and the measure of what is large.

    Returns:
        False also where their sizes differ.
    """
    if first.numel() != second.numel():
        return False
    difference = (first.reshape(second.shape) - second).abs().max()
    return bool(difference <= RELATIVE * second.abs().max())
