"""Ways in which relevance could be lost in silence, each an error instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.weak import WeakIdKeyDictionary

from attrib_plugin.errors import UnsupportedOperationError
from attrib_plugin.propagation.operations import CUTS, FRESH, name_of
from attrib_plugin.propagation.parsing import carries

_ADVICE = "Methods without relevance rules (GradientRollout, AttentionRollout) do not need one."


class Losses:
    """Watches one forward pass for values that go on while their relevance does not.

    Two things are watched. A value may be *cut off*: made from relevant tensors, but without a graph (``detach``,
    ``no_grad``); it may be looked at, but must not be mixed with relevant tensors again. And an operation may *escape*:
    run where no session sees it (a ``torch.autograd.Function`` or TorchScript of the model's own), so that relevance
    would go through it by the chain rule.
    """

    def __init__(self) -> None:
        self._cut: Any = WeakIdKeyDictionary()
        self._moves = {"CloneBackward0"}  # which capture makes

    def check(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], module: str) -> None:
        """Check an operation that relevance would pass.

        Args:
            func: The torch function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            module: Name of the module that runs it.

        Raises:
            UnsupportedOperationError: If a value that was cut off is among its arguments, or it writes into ``out``.
        """
        if kwargs.get("out") is not None:
            raise UnsupportedOperationError(
                f"{_place(func, module)} writes into out=, through which relevance cannot be followed. {_ADVICE}"
            )
        if len(self._cut) and any(tensor in self._cut for tensor in tensors_in(args, kwargs)):
            raise UnsupportedOperationError(
                f"{_place(func, module)} takes a value whose relevance was cut off before, by .detach(), "
                f"torch.no_grad() or a torch.autograd.Function; its share would be lost. {_ADVICE}"
            )

    def follow(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        """Take note of the result of an operation.

        Args:
            func: The torch function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            output: What it returned.
        """
        cuts = func in CUTS or not torch.is_grad_enabled()
        if func in FRESH or not (cuts or len(self._cut)):
            return
        given = list(tensors_in(args, kwargs))
        if not ((cuts and any(map(carries, given))) or any(one in self._cut for one in given)):
            return
        for tensor in tensors_in((output,), {}):
            if tensor.is_floating_point() and not tensor.requires_grad:
                self._cut[tensor] = True

    def moved(self, before: set[Node], output: Any) -> None:
        """Take note of the nodes of an operation that only moves values.

        Args:
            before: Nodes of its arguments before it ran.
            output: What it returned or changed.
        """
        waiting = [one.grad_fn for one in tensors_in((output,), {})]
        for _ in range(16):  # a few nodes at most; further down is what came before
            node = waiting.pop() if waiting else None
            if node is None:
                break
            if node not in before and not _is_own(node):
                self._moves.add(node.name())
                waiting += [below for below, _ in node.next_functions]

    def check_output(self, output: Any, model: str) -> None:
        """Check that every operation that a result was made by is known.

        Args:
            output: What a model returned.
            model: Its name, for the message.

        Raises:
            UnsupportedOperationError: If there is an operation that was never seen.
        """
        for node in _nodes_below(output):
            is_start = hasattr(node, "variable")
            if not (is_start or _is_own(node) or node.name() in self._moves):
                _refuse_escaped(f"An operation with the backward {node.name()!r}", model)


def check_single_start(output: Any, start: Tensor, module: str) -> None:
    """Check that a module that is one operation as a whole has one relevant operand.

    Args:
        output: What it returned.
        start: The operand.
        module: Its name.

    Raises:
        UnsupportedOperationError: If its result depends on another relevant tensor.
    """
    for node in _nodes_below(output):
        if _is_own(node) or (hasattr(node, "variable") and node.variable is not start):
            raise UnsupportedOperationError(
                f"{module!r} is one operation for relevance, but takes more than one relevant tensor; the share of the "
                f"second would be lost. {_ADVICE}"
            )


def refuse_strays(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], operands: Sequence[Tensor], module: str
) -> None:
    """Refuse an operation with relevant arguments that no rule looks at, such as a mask made from queries.

    Args:
        func: The torch function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        operands: The arguments that its rule looks at.
        module: Name of the module that runs it.

    Raises:
        UnsupportedOperationError: If there is one.
    """
    given = Counter(id(one) for one in tensors_in(args, kwargs) if carries(one))
    if given - Counter(map(id, operands)):
        raise UnsupportedOperationError(
            f"{_place(func, module)} takes more relevant tensors than its rule shares relevance between (a bias, mask "
            f"or bound that depends on the input). {_ADVICE}"
        )


def refuse(func: Callable[..., Any], module: str) -> NoReturn:
    """Refuse an operation of no known kind.

    Args:
        func: The torch function.
        module: Name of the module that runs it.

    Raises:
        UnsupportedOperationError: Always.
    """
    raise UnsupportedOperationError(
        f"Relevance reaches {_place(func, module)}, for which there is no rule, so the map would be wrong. {_ADVICE}"
    )


def tensors_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors among arguments or results, also in tuples, lists and mappings.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.

    Yields:
        The tensors.
    """
    for one in (*args, *kwargs.values()):
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, Mapping):
            yield from tensors_in((), one)
        elif isinstance(one, (tuple, list)):
            yield from tensors_in(one, {})


def nodes(values: Any) -> set[Node]:
    """The nodes that made some tensors.

    Args:
        values: Tensors, in any nesting.

    Returns:
        Their nodes.
    """
    return {one.grad_fn for one in tensors_in((values,), {}) if one.grad_fn is not None}


def _nodes_below(output: Any) -> Iterator[Node]:
    """All nodes of the graph of some results."""
    seen = nodes(output)
    waiting = list(seen)
    while waiting:
        node = waiting.pop()
        yield node
        below = {one for one, _ in node.next_functions if one is not None} - seen
        seen |= below
        waiting += below


def _is_own(node: Any) -> bool:
    """Whether a node is one of ours, whose backward is a rule."""
    return hasattr(node, "passage")


def _place(func: Callable[..., Any], module: str) -> str:
    return f"{name_of(func)} in {module or 'the model'!r}"


def _refuse_escaped(what: str, module: str) -> NoReturn:
    raise UnsupportedOperationError(
        f"{what} ran in {module or 'the model'!r} where relevance cannot see it: a torch.autograd.Function, a "
        f"TorchScript function or a kernel of its own. {_ADVICE}"
    )
