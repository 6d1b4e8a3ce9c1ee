"""Activations of one layer of tokens during a session, and the gradient of a score with respect to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from attrib_plugin.capture.checkpoints import with_graph
from attrib_plugin.capture.scope import innermost, may_attend
from attrib_plugin.capture.session import CaptureSession
from attrib_plugin.capture.state import remove_all
from attrib_plugin.errors import CaptureError, InputError
from attrib_plugin.records import AttentionCall, TokenActivation


class ActivationTap:
    """Keeps the tokens of one layer: the output of a given module, or what the last self-attention reads.

    What a self-attention reads is the input of the innermost module around it that takes the tokens: in models that
    normalise before attention, the output of that norm. No name has to be known for it. Where attention works in
    windows these are the tokens of all windows, or the map (batch, row, column, dim) that such a module takes.

    Args:
        session: The session whose forward pass is followed.
        layer: A module; ``None`` is the input of the last self-attention.
    """

    def __init__(self, session: CaptureSession, layer: nn.Module | None = None) -> None:
        self._session = session
        self._layer = layer
        self._values: Tensor | None = None
        self._node: GradientEdge | None = None
        self._seen = -1

    def read(self, score: Tensor, *, retain_graph: bool = False) -> TokenActivation:
        """The activations and their gradient; one backward pass down to the layer.

        Args:
            score: Scalar, or one score a sample.
            retain_graph: Whether another backward pass will follow.

        Returns:
            Activations and gradient, the latter in units of the score for each unit of activation.

        Raises:
            CaptureError: If the layer did not run, gave no tensor, or the score does not depend on it.
        """
        if self._values is None or self._node is None:
            what = "the layer gave no floating tensor" if self._layer else "no module takes the tokens it attends over"
            raise CaptureError(
                f"Found no tokens (batch, token, dim) to weigh: {what}, or it did not run with gradients. Name a layer "
                "that ran: layer=module or layer='dotted.name'. Reentrant checkpointing takes gradients away: "
                "call checkpoint(..., use_reentrant=False)."
            )
        if not score.requires_grad:
            raise CaptureError("The explained score has no graph to this layer: compute it inside the session.")
        (gradient,) = torch.autograd.grad(score.sum(), [self._node], retain_graph=retain_graph, allow_unused=True)
        if gradient is None:
            raise CaptureError("The explained score does not depend on this layer. Name one that it is computed from.")
        return TokenActivation(self._values, gradient)

    def install(self) -> Callable[[], None]:
        """Register the hooks.

        Returns:
            The function that removes them.
        """
        handles: list[RemovableHandle] = []
        remove = remove_all(handles)
        try:
            if self._layer is not None:
                handles.append(self._layer.register_forward_hook(self._after_layer))
            else:
                for name, module in plain_names(self._session.model).items():
                    if may_attend(module):
                        handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
                        handles.append(module.register_forward_hook(partial(self._after, name), with_kwargs=True))
        except BaseException:  # also Ctrl-C: half the hooks are worse than none
            remove()
            raise
        return remove

    def _before(
        self, module: nn.Module, arguments: tuple[Any, ...], *of_call: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Start the graph at the first tokens, so that those of the first attention have one too."""
        # In another thread torch may call this without the keywords, while the hook is put on or taken off.
        if innermost() is not self._session:
            return None
        (keywords,) = of_call
        tokens = next((one for one in (*arguments, *keywords.values()) if self._are_tokens(one)), None)
        if tokens is None or tokens.requires_grad:
            return None
        # The same tensor may be given as query, key and value, and must stay the same.
        started = with_graph(tokens)
        arguments = tuple(started if one is tokens else one for one in arguments)
        return arguments, {name: started if one is tokens else one for name, one in keywords.items()}

    def _after(self, name: str, module: nn.Module, arguments: tuple[Any, ...], *of_call: Any) -> None:
        """Modules end from the inside out: the first one around a new call that takes its tokens is the one wanted."""
        if innermost() is not self._session:
            return
        keywords: Mapping[str, Any] = of_call[0]
        call = self._session.latest
        if call is None or call.index <= self._seen or call.kind not in ("self", "causal"):
            return
        # A projection of the attention's output takes tokens too, but stands beside the call and not around it.
        if not f"{call.name}.".startswith(f"{name}." if name else ""):
            return
        for one in (*arguments, *keywords.values()):
            if self._are_tokens(one) and self._reads(call, one):
                self._seen = call.index
                self._keep(one)
                return

    def _are_tokens(self, value: object) -> bool:
        # Models with windows hand maps of tokens from module to module, with the features last.
        ranks = (3,) if self._session.positions is None else (3, 4)
        return isinstance(value, Tensor) and value.dim() in ranks and value.is_floating_point()

    def _reads(self, call: AttentionCall, tokens: Tensor) -> bool:
        if tokens.dim() == 3:
            return tokens.shape[:2] == (call.batch_size, _n_queries(call))
        placed = call.placement
        return placed is not None and tokens.shape[1] * tokens.shape[2] == placed.n_tokens

    def _after_layer(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if innermost() is not self._session:
            return None
        tensor, replaced = _first_tensor(output)
        if tensor is None:
            return None
        if tensor.requires_grad or not torch.is_grad_enabled():
            self._keep(tensor)
            return None
        started = with_graph(tensor)
        self._keep(started)
        return replaced(started)

    def _keep(self, tensor: Tensor) -> None:
        # A copy and the edge of the graph, because the model may go on to change its tensor in place.
        self._values = tensor.detach().clone()
        self._node = get_gradient_edge(tensor) if tensor.requires_grad else None


@contextmanager
def tapped(session: CaptureSession, layer: nn.Module | None = None) -> Iterator[ActivationTap]:
    """Keep the activations of one layer for the duration of the block.

    Args:
        session: The open session.
        layer: As in :class:`ActivationTap`.

    Yields:
        The tap.
    """
    tap = ActivationTap(session, layer)
    remove = tap.install()
    try:
        yield tap
    finally:
        remove()


def find_layer(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    """A module of a model, by itself or by its dotted name.

    Args:
        model: The model.
        layer: The module or its name.

    Returns:
        The module.

    Raises:
        InputError: If the model has no such module.
    """
    names = plain_names(model)
    if isinstance(layer, str) and layer in names:
        return names[layer]
    if isinstance(layer, nn.Module) and any(layer is module for module in names.values()):
        return layer
    shown = repr(layer) if isinstance(layer, str) else f"the {type(layer).__name__} that was given"
    raise InputError(
        f"{type(model).__name__} has no module {shown}. Expected one of its own modules, or a dotted name of "
        f"model.named_modules(), such as {_examples(names)}."
    )


def plain_names(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by their names as the user wrote them, whether compiled or not.

    Args:
        model: The model.

    Returns:
        Modules by dotted name; the model itself has the empty name.
    """
    return {name.replace("_orig_mod.", "").removesuffix("_orig_mod"): module for name, module in model.named_modules()}


def _examples(names: Mapping[str, nn.Module]) -> str:
    norms = [name for name, module in names.items() if "norm" in type(module).__name__.lower()]
    return ", ".join(map(repr, norms[-3:] or list(names)[-3:]))


def _n_queries(call: AttentionCall) -> int:
    tensor = call.query if call.weights is None else call.weights
    return 0 if tensor is None else tensor.shape[-2]


def _first_tensor(output: Any) -> tuple[Tensor | None, Callable[[Tensor], Any]]:
    """The tensor that a layer returned, alone or first in a tuple, and how to put another in its place."""
    if isinstance(output, Tensor):
        return (output if output.is_floating_point() else None), lambda tensor: tensor
    if type(output) is tuple and output and isinstance(output[0], Tensor) and output[0].is_floating_point():
        return output[0], lambda tensor: (tensor, *output[1:])
    return None, lambda tensor: tensor
