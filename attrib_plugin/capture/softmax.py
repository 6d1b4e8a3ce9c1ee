"""Eager attention: follow a softmax through size-keeping operations to its product with the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
_PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__, torch.einsum}


@dataclass(frozen=True, eq=False)
class LooseSoftmax:
    """A softmax that looks like attention; loose until its product with values is found.

    Attributes:
        shape: Shape of the probabilities.
        name: Module that computed it.
    """

    shape: tuple[int, ...]
    name: str


@dataclass(frozen=True, eq=False)
class EagerProduct:
    """A product of probabilities and values, found.

    Attributes:
        weights: The operand that descends from a softmax.
        value: The other operand.
        product: Maps ``weights`` to the product, with the values held fixed; ``None`` for a plain
            ``weights @ value``.
    """

    weights: Tensor
    value: Tensor
    product: Callable[[Tensor], Tensor] | None


class SoftmaxTracker:
    """Tags softmax outputs and what is made of them without changing their size.

    A list of allowed operations in between would miss attention silently (talking heads, casts, dropout);
    following everything that keeps the number of elements does not, and what finds no product stays in
    :attr:`loose` and is reported.
    """

    def __init__(self) -> None:
        self.loose: list[LooseSoftmax] = []
        # Over another axis than the last, and multiplied with something: no attention from token to token.
        self.sideways: list[str] = []
        self._over_other_axis: dict[int, tuple[Tensor, str]] = {}
        # Tensors are kept beside their tags, so that an id cannot be reused while it is looked up.
        self._tagged: dict[int, tuple[Tensor, frozenset[LooseSoftmax]]] = {}

    @property
    def remark(self) -> str:
        """What to add where no attention was found; empty if no softmax over another axis was multiplied."""
        if not self.sideways:
            return ""
        return (
            f" Seen were {len(self.sideways)} products with a softmax over another axis than the last (first: "
            f"{self.sideways[0]}), whose rows are no shares of the tokens that a token attends to; such factorised or "
            "channel attention cannot be followed from token to token."
        )

    def observe(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Any, name: str
    ) -> None:
        """Tag the output of an operation, if it is an attention-like softmax or descends from one.

        Args:
            func: The operation.
            args: Its arguments.
            kwargs: Its keyword arguments.
            out: Its output.
            name: The module that runs it.
        """
        is_softmax = func in _SOFTMAX
        if not (is_softmax or self._tagged or self._over_other_axis):
            return
        if not isinstance(out, Tensor) or out.dim() < 3:
            return
        if is_softmax:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim in (-1, out.dim() - 1):
                root = LooseSoftmax(tuple(out.shape), name)
                self._tagged[id(out)] = (out, frozenset([root]))
                self.loose.append(root)
            else:
                self._over_other_axis[id(out)] = (out, f"axis {dim} of {tuple(out.shape)} in {name or 'the model'}")
            return
        sources = [tag for tag in map(self._tag, args) if tag and tag[0].numel() == out.numel()]
        if sources:
            self._tagged[id(out)] = (out, frozenset().union(*(roots for _, roots in sources)))
        for source, place in filter(None, (self._over_other_axis.get(id(argument)) for argument in args)):
            if source.numel() == out.numel():
                self._over_other_axis[id(out)] = (out, place)

    def find_product(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> EagerProduct | None:
        """Recognise the product of probabilities and values, and settle its softmax.

        Args:
            func: The operation about to run.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The product, or ``None`` if the operation is something else.
        """
        if func not in _PRODUCTS:
            return None
        args = (args[0], *args[1]) if func is torch.einsum and isinstance(args[1], (list, tuple)) else tuple(args)
        over_other_axis = (self._over_other_axis.pop(id(argument), None) for argument in args)
        self.sideways += [found[1] for found in over_other_axis if found is not None]
        operands = [index for index, argument in enumerate(args) if isinstance(argument, Tensor)]
        tagged = [index for index in operands if self._tag(args[index])]
        if len(operands) != 2 or len(tagged) != 1:
            return None
        position = tagged[0]
        value = args[operands[0] if operands[1] == position else operands[1]]
        weights = args[position]
        order = _axes_of_equation(args, position) if func is torch.einsum else tuple(range(weights.dim()))
        # A learned codebook or expert matrix is no set of token values.
        if value.dim() < 3 or isinstance(value, nn.Parameter) or order is None:
            return None
        roots = self._tagged[id(weights)][1]
        self.loose = [softmax for softmax in self.loose if softmax not in roots]
        self._tagged = {key: tag for key, tag in self._tagged.items() if not tag[1] & roots}

        def product(probabilities: Tensor) -> Tensor:
            result: Tensor = func(*args[:position], probabilities, *args[position + 1 :], **kwargs)
            return result

        if func is torch.einsum:
            back = tuple(order.index(axis) for axis in range(len(order)))
            return EagerProduct(
                weights.permute(order), value, lambda probabilities: product(probabilities.permute(back))
            )
        if position == 0:
            return EagerProduct(weights, value, None)
        # In values @ probabilities the keys are on the rows.
        return EagerProduct(weights.mT, value, lambda probabilities: product(probabilities.mT))

    def settle_output(self, output: Any) -> None:
        """Settle the softmaxes that a model returns: probabilities of classes are no attention.

        Args:
            output: What the model returned: a tensor, or a mapping or sequence of tensors.
        """
        parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
        roots = frozenset[LooseSoftmax]().union(*(tag[1] for tag in map(self._tag, (output, *parts)) if tag))
        self.loose = [softmax for softmax in self.loose if softmax not in roots]

    def _tag(self, argument: Any) -> tuple[Tensor, frozenset[LooseSoftmax]] | None:
        return self._tagged.get(id(argument))


def _axes_of_equation(args: Sequence[Any], position: int) -> tuple[int, ...] | None:
    """The order of axes that brings probabilities in an einsum to ``batch head query key``.

    Args:
        args: The equation and two operands.
        position: Which argument holds the probabilities.

    Returns:
        Axes of the probabilities; ``None`` where the equation is no product of probabilities and values.
    """
    if not isinstance(args[0], str):
        return None
    terms, _, output = args[0].replace(" ", "").replace("...", ".").partition("->")
    inputs = terms.split(",")
    weights, value = inputs[position - 1], inputs[2 - position]
    # The dots stand for leading axes that every term has, if any has them.
    lettered = weights.replace(".", "")
    shared = [letter for letter in lettered if letter in value and letter in output]
    queries = [letter for letter in lettered if letter in output and letter not in value]
    keys = [letter for letter in lettered if letter in value and letter not in output]
    is_product = len(queries) == len(keys) == 1 and len(shared) + 2 == len(lettered) == len(set(lettered))
    # The samples come first in the result, so that the axis of samples is known among the shared ones.
    if not is_product or shared != [letter for letter in output if letter in shared]:
        return None
    if len({term.find(".") for term in (weights, value, output)}) != 1 or weights.find(".") > 0:
        return None
    dots = args[position].dim() - len(lettered)
    order = [*shared, *queries, *keys]
    return (*range(dots), *(dots + lettered.index(letter) for letter in order))
