"""Relevance rides on autograd: each operation of a model becomes a node whose backward is ours to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib_plugin.errors import UnsupportedOperationError
from attrib_plugin.propagation.composite import Composite
from attrib_plugin.propagation.fanout import Junctions
from attrib_plugin.propagation.losses import Losses, check_single_start, nodes, refuse, refuse_strays, tensors_in
from attrib_plugin.propagation.modules import whole_operation
from attrib_plugin.propagation.operation import Flow, Operation, Passage, producer, reads_input
from attrib_plugin.propagation.operations import CUTS, IN_PLACE, OVERWRITING, PICK, ROUTING, SHIFTED_PRODUCT
from attrib_plugin.propagation.parsing import Parsed, carries, parse
from attrib_plugin.propagation.samples import Samples
from attrib_plugin.propagation.step import Rule


@dataclass(eq=False)
class BlockTokens:
    """Tokens before and after a module.

    Attributes:
        name: Dotted name of the module.
        before: Tokens that it was given.
        after: Tokens that it returned.
    """

    name: str
    before: Tensor
    after: Tensor


class RelevanceGraph:
    """One forward pass whose backward can be taken by the chain rule or by the rules of a composite.

    Args:
        composite: The rules.
        batch_size: Number of samples.
        ids: Token ids whose embeddings relevance is wanted for; ``None`` where the graph starts elsewhere.
        ledger: Whether to write down what passes every operation.

    Attributes:
        embeddings: The embeddings of ``ids``, once they were looked up.
        blocks: Tokens that came in to and went out of modules, in the order of their end.
    """

    def __init__(
        self, composite: Composite, batch_size: int, *, ids: Tensor | None = None, ledger: bool = False
    ) -> None:
        self.composite = composite
        self.embeddings: Tensor | None = None
        self.blocks: list[BlockTokens] = []
        self._passage = Passage(Samples(batch_size), flows=[] if ledger else None)
        self._junctions = None if composite.fanout is None else Junctions(composite.fanout, self._passage)
        self._losses = Losses()
        self._ids = ids
        self._open: list[tuple[str, Tensor | None]] = []
        self._atom: _Atom | None = None
        # Hooks run where the session still sees every operation; our own are none of the model's.
        self._is_own = False

    def flows_of_last_pass(self) -> list[Flow]:
        """What passed every operation since the last call, from the score down; nothing without a ledger.

        Returns:
            One entry an operation.
        """
        flows, self._passage.flows = self._passage.flows, None if self._passage.flows is None else []
        return flows or []

    @contextmanager
    def propagating(self) -> Iterator[None]:
        """Backward passes inside the block carry relevance instead of gradients.

        Yields:
            Nothing.
        """
        self._passage.is_propagating = True
        try:
            yield
        finally:
            self._passage.is_propagating = False

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], module: str) -> Any:
        """Run one torch function so that relevance can come back through it.

        Args:
            func: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            module: Name of the module that runs it.

        Returns:
            What the function returns.

        Raises:
            UnsupportedOperationError: If relevance would pass an operation that has no rule.
        """
        if func is F.embedding and self._is_lookup(args):
            self.embeddings = func(*args, **kwargs).detach().requires_grad_()
            return self.embeddings.clone()  # which the model may change in place
        if self._is_own or self._atom is not None:
            return func(*args, **kwargs)
        is_relevant = any(map(carries, tensors_in(args, kwargs)))
        output = self._relevant(func, args, kwargs, module) if is_relevant else func(*args, **kwargs)
        self._losses.follow(func, args, kwargs, output)
        return output

    def enter(self, module: nn.Module, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Take note that a module starts; some modules are operations as a whole.

        Args:
            module: The module.
            name: Its name.
            arguments: Its positional arguments.

        Returns:
            Arguments to run it with instead, or ``None``.
        """
        self._open.append((name, next(filter(_are_tokens, arguments), None)))
        if isinstance(module, nn.MultiheadAttention) and not module.batch_first:
            self._passage.samples.second = True
        if self._atom is not None or not arguments or not carries(arguments[0]):
            return None
        whole = whole_operation(module)
        if whole is None:
            return None
        kind, options = whole
        rule = self.composite.rule(kind, name)
        with self._own_operations():
            (value,) = self._tapped(arguments[:1], is_linear=False)
            inner = value.detach().requires_grad_()
            in_place = bool(getattr(module, "inplace", False))
            self._atom = _Atom(module, kind, options, rule, value, inner, arguments[0] if in_place else None)
            return (inner.clone() if in_place else inner, *arguments[1:])

    def leave(self, module: nn.Module, name: str, output: Any) -> Any:
        """Take note that a module has ended.

        Args:
            module: The module.
            name: Its name.
            output: What it returned; ``None`` if it failed.

        Returns:
            Output to go on with instead, or ``None``.
        """
        self._close(name, output)
        if not name:
            self._losses.check_output(output, type(module).__name__)
        atom = self._atom
        if atom is None or atom.module is not module:
            return None
        self._atom = None
        if not carries(output):
            return None
        check_single_start(output, atom.inner, name)
        parsed = Parsed(atom.kind, (atom.value,), lambda _: output, options=atom.options, leaves=(atom.inner,))
        with self._own_operations():
            if atom.changed is not None:
                return self._in_place(atom.changed, atom.rule, parsed, name, (atom.value,))
            return Operation.apply(self._passage, atom.rule, parsed, name, atom.value)

    def _relevant(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], module: str) -> Any:
        """Run an operation on tensors that carry relevance."""
        if func in CUTS:
            return func(*args, **kwargs)
        if func in ROUTING or func in OVERWRITING or func in PICK:
            self._losses.check(func, args, kwargs, module)
            return self._moved(func, args, kwargs, module)
        if func in SHIFTED_PRODUCT:
            return self._shifted_product(module, *args, **kwargs)
        parsed = parse(IN_PLACE.get(func, func), args, kwargs)
        if parsed is None:
            output = func(*args, **kwargs)
            if any(map(carries, tensors_in((output,), {}))):
                refuse(func, module)
            return output
        if parsed.kind == "convolution" and self._ids is None and reads_input(parsed.operands[0]):
            parsed = replace(parsed, kind="pixel convolution")
        self._losses.check(func, args, kwargs, module)
        refuse_strays(func, args, kwargs, parsed.operands, module)
        rule = self.composite.rule(parsed.kind, module)
        operands = self._tapped(parsed.operands, is_linear=parsed.kind == "linear")
        if func in IN_PLACE or kwargs.get("inplace"):
            changed = args[0] if args else kwargs["input"]
            return self._in_place(changed, rule, parsed, module, operands)
        return Operation.apply(self._passage, rule, parsed, module, *operands)

    def _shifted_product(
        self,
        module: str,
        input: Tensor,
        batch1: Tensor,
        batch2: Tensor,
        *,
        beta: float = 1,
        alpha: float = 1,
    ) -> Any:
        """Run ``beta * input + alpha * batch1 @ batch2`` as the operations that it is."""
        product = self.run(torch.bmm, (batch1, batch2), {}, module)
        if alpha != 1:
            product = self.run(torch.mul, (product, alpha), {}, module)
        if beta == 0:
            return product
        shift = input if beta == 1 else self.run(torch.mul, (input, beta), {}, module)
        return self.run(torch.add, (product, shift), {}, module)

    def _moved(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], module: str) -> Any:
        """Run an operation that moves values: its gradient is the way of relevance, too."""
        before = nodes(args)
        if func in OVERWRITING:
            self._keep(args[0])
            output = func(*args, **kwargs)
            self._losses.moved(before, args[0])
        else:
            tapped = tuple(self._tapped([one], is_linear=False)[0] if carries(one) else one for one in args)
            pick = self.composite.rules.get("pick") if func in PICK else None
            if pick is not None and _picks_a_token(*args):
                parsed = Parsed("pick", tapped[:1], lambda one: func(one, args[1]))
                return Operation.apply(self._passage, pick, parsed, module, tapped[0])
            before |= nodes(tapped)
            output = func(*tapped, **kwargs)
            self._losses.moved(before, output)
        return output

    def _in_place(self, changed: Tensor, rule: Rule, parsed: Parsed, module: str, operands: Sequence[Any]) -> Tensor:
        """Run an operation whose first argument takes its result: ``x += y`` and its like."""
        if not carries(changed):
            raise UnsupportedOperationError(
                f"{module or 'The model'} changes a tensor in place that had no relevance before. There is no rule "
                "for it; methods without relevance rules (GradientRollout, AttentionRollout) do not need one."
            )
        self._keep(changed)
        result: Tensor = Operation.apply(self._passage, rule, parsed, module, *operands, changed)
        # A view has a node that writes its values into the tensor that it is a view of.
        self._losses.moved(set(), result)
        return result

    def _keep(self, changed: Tensor) -> None:
        """Keep the values of a tensor that is about to get others."""
        if (step := producer(changed)) is not None:
            step.keep_result()
        if self._junctions is None:
            return
        if changed._is_view() and carries(changed):
            raise UnsupportedOperationError(
                f"The model changes a view of a tensor in place, which the composite {self.composite.name!r} cannot "
                "follow, because it has a rule for tensors that are used several times. Other composites can."
            )
        self._junctions.forget(changed)

    def _tapped(self, operands: Sequence[Any], *, is_linear: bool) -> tuple[Any, ...]:
        junctions = self._junctions
        if junctions is None:
            return tuple(operands)
        return tuple(junctions.tap(one, is_linear=is_linear) if carries(one) else one for one in operands)

    @contextmanager
    def _own_operations(self) -> Iterator[None]:
        self._is_own = True
        try:
            yield
        finally:
            self._is_own = False

    def _is_lookup(self, args: Sequence[Any]) -> bool:
        if self.embeddings is not None or self._ids is None or not args or not isinstance(args[0], Tensor):
            return False
        return args[0].data_ptr() == self._ids.data_ptr() and args[0].numel() == self._ids.numel()

    def _close(self, name: str, output: Any) -> None:
        while self._open:
            opened, tokens = self._open.pop()
            if opened == name:
                break
        else:
            return
        result = output[0] if isinstance(output, (tuple, list)) and output else output
        if tokens is not None and _are_tokens(result) and result.shape == tokens.shape:
            self.blocks.append(BlockTokens(name, tokens, result))


@dataclass(eq=False)
class _Atom:
    """A module that is one operation as a whole, while it runs."""

    module: nn.Module
    kind: str
    options: Mapping[str, Any]
    rule: Rule
    value: Tensor
    inner: Tensor
    changed: Tensor | None


def _are_tokens(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point()


def _picks_a_token(tensor: Tensor, where: Any) -> bool:
    return (
        tensor.dim() == 3
        and isinstance(where, tuple)
        and len(where) == 2
        and where[0] == slice(None)
        and isinstance(where[1], int)
    )
