"""The seam: one torch function mode that sees every attention call of this thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attrib_plugin.capture.checkpoints import is_inside_checkpoint
from attrib_plugin.capture.positions import PositionTracker
from attrib_plugin.capture.softmax import EagerProduct, SoftmaxTracker

_ATEN_SDPA = torch.ops.aten.scaled_dot_product_attention
_SDPA = {F.scaled_dot_product_attention, _ATEN_SDPA, _ATEN_SDPA.default}


class Recorder(Protocol):
    """A session as the mode sees it."""

    softmaxes: SoftmaxTracker
    positions: PositionTracker | None
    began_in_checkpoint: bool

    @property
    def is_recording(self) -> bool:
        """Whether this session is the one to record."""

    @property
    def module_name(self) -> str:
        """Name of the module that is running."""

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one torch operation."""

    def record_fused(self, output: Tensor, operands: tuple[Tensor, Tensor, Tensor], **ingredients: Any) -> None:
        """Record a fused attention call."""

    def record_eager(self, output: Tensor, eager: EagerProduct, handed: Tensor) -> None:
        """Record an eager attention call."""


def _rehost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, for which no torch function mode seems to be active.

    ``nn.MultiheadAttention`` hands itself to the mode before it calls attention, and calling it again
    from there recurses. Running its own bytecode with ``has_torch_function`` answering no opens it, with
    torch's own treatment of masks, biases and errors, and without patching anything.
    """
    if not isinstance(function, FunctionType) or "has_torch_function" not in function.__globals__:
        raise RuntimeError(
            f"{function.__name__} of torch {torch.__version__} is not the Python function that capture expects; "
            "please report this torch version."
        )
    hosted = FunctionType(
        function.__code__,
        {**function.__globals__, "has_torch_function": lambda *_: False},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    hosted.__kwdefaults__ = function.__kwdefaults__
    return hosted


_multi_head_attention = _rehost(F.multi_head_attention_forward)


class AttentionMode(TorchFunctionMode):
    """Hands attention calls to a recorder and runs everything else as it is."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one torch operation, recording it if it is attention."""
        kwargs = kwargs or {}
        recorder = self._recorder
        if not recorder.is_recording:
            return func(*args, **kwargs)
        if func in _SDPA:
            return self._fused(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return _multi_head_attention(*args, **kwargs)
        if eager := recorder.softmaxes.find_product(func, args, kwargs):
            output = self._with_graph(recorder.run(func, args, kwargs))
            # The model may change what it gets in place; a leaf or a view at which gradients are taken must stay.
            handed = output.clone() if output.requires_grad else output
            recorder.record_eager(output, eager, handed)
            return handed
        out = recorder.run(func, args, kwargs)
        recorder.softmaxes.observe(func, args, kwargs, out, recorder.module_name)
        if recorder.positions is not None:
            recorder.positions.observe(func, args, kwargs, out)
        return out

    def _fused(  # noqa: PLR0917 - the signature of scaled_dot_product_attention
        self,
        func: Callable[..., Any],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        operands = (query, key, value)
        if not any(tensor.requires_grad for tensor in operands):
            # Below the first attention nothing needs a gradient. Starting the graph at the query keeps the
            # fused kernel's log-sum-exp, which starting it at the output would lose.
            query = self._with_graph(query)
        arguments = (query, key, value, attn_mask, dropout_p, is_causal)
        output: Tensor = self._recorder.run(func, arguments, options)
        if hasattr(attn_mask, "_materialize"):  # torch.nn.attention.bias.CausalBias stands for a mask
            attn_mask = attn_mask._materialize(query.device)
        self._recorder.record_fused(
            output,
            operands,
            query=query.detach(),
            key=key.detach(),
            value=value.detach(),
            mask=None if attn_mask is None else attn_mask.detach(),
            is_causal=is_causal,
            scale=options.get("scale"),
        )
        return output

    def _with_graph(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or a leaf of its values where the graph has to begin."""
        if tensor.requires_grad or not torch.is_grad_enabled():
            return tensor
        self._recorder.began_in_checkpoint |= is_inside_checkpoint()
        return tensor.detach().requires_grad_()
