"""``capture_attention``: the attention tensors themselves, for users who want those."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from attrib_plugin.capture.reading import call_gradient, call_probabilities
from attrib_plugin.capture.session import CaptureSession
from attrib_plugin.errors import CaptureError
from attrib_plugin.records import AttentionCall

if TYPE_CHECKING:
    from jaxtyping import Float


class CapturedCall:
    """One attention call that a model made.

    Attributes:
        name: Dotted name of the module that made it.
        kind: ``"self"``, ``"causal"``, ``"cross"`` or ``"pool"``.
        record: The tensors as recorded.
    """

    def __init__(self, record: AttentionCall, node: GradientEdge | None) -> None:
        self.record = record
        self._node = node
        self.name = record.name
        self.kind = record.kind

    def __repr__(self) -> str:
        return f"CapturedCall({self.record.index}, {self.name!r}, {self.kind!r})"

    def probabilities(self) -> Float[Tensor, "batch head query key"]:
        """Attention probabilities; rows sum to one, or to zero where every key is masked."""
        return call_probabilities(self.record)

    def gradient(self, of: Tensor) -> Float[Tensor, "batch head query key"]:
        """Gradient of a score with respect to the probabilities.

        Args:
            of: Scalar computed from the model's output inside the block; a vector is summed.

        Returns:
            Gradient in units of the score, signed. The graph is kept, so other calls can be asked too.

        Raises:
            CaptureError: If the score does not depend on this call.
        """
        if self._node is None or not of.requires_grad:
            raise CaptureError(
                f"The score has no graph to the attention of {self.name!r}; compute it inside the block."
            )
        (gradient,) = torch.autograd.grad(of.sum(), [self._node], retain_graph=True, allow_unused=True)
        if gradient is None:
            raise CaptureError(f"The score does not depend on the attention of {self.name!r}.")
        return call_gradient(self.record, gradient)


class CapturedAttention:
    """What :func:`capture_attention` yields."""

    def __init__(self, session: CaptureSession) -> None:
        self._session = session

    @property
    def calls(self) -> tuple[CapturedCall, ...]:
        """The calls so far, in order; readable inside the block and after it.

        Raises:
            NothingCapturedError: If there was none.
            UnsupportedAttentionError: If some attention could not be read, so that the calls are incomplete.
        """
        return tuple(CapturedCall(call, self._session.node(call)) for call in self._session.calls)


@contextmanager
def capture_attention(model: nn.Module) -> Iterator[CapturedAttention]:
    """Read the attention of an unmodified model, fused or eager, with gradients.

    Memory is that of a forward pass with a graph; probabilities are formed only when asked for. Parameters do
    not require gradients inside the block. The model is afterwards as it was.

    Example:
        >>> with capture_attention(model) as captured:
        ...     score = model(images)[:, 3].sum()
        >>> last = captured.calls[-1]
        >>> weighted = last.probabilities() * last.gradient(of=score)

    Args:
        model: The model; its forward is run by the caller, in the same thread.

    Yields:
        The captured calls.
    """
    with CaptureSession(model) as session:
        yield CapturedAttention(session)
