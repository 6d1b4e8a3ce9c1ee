"""The base of methods whose relevance arrives at the input itself: pixels, or embeddings of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn, get_args

from torch import Tensor

from attrib_plugin.errors import AttributionError
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.functional.weighted_rollout import SIGNS, Sign
from attrib_plugin.methods.base.attribution import AttentionAttribution
from attrib_plugin.methods.base.caller import warn_of_silence
from attrib_plugin.methods.base.conservation import ConservationReport, conservation_report
from attrib_plugin.methods.base.forward_pass import Query
from attrib_plugin.methods.base.propagation import Propagation, find_composite
from attrib_plugin.methods.base.targets import Target
from attrib_plugin.postprocessing.grid import pixels_to_grid
from attrib_plugin.propagation import Composite, Flow
from attrib_plugin.records import AttentionTrace, PropagatedRelevance

Destination = Literal["input", "first_block"]


class InputRelevance(AttentionAttribution):
    """Relevance propagated to the input by a composite of rules; a method names its default composite.

    Args:
        forward_func: As in :class:`AttentionAttribution`.
        composite: Rules by name or as a :class:`~attrib_plugin.propagation.Composite`.
        sign: ``"signed"``, ``"positive"`` or ``"negative"``: all of what is returned, or one side of it as at least 0.
        destination: ``"input"``: pixels or token embeddings. ``"first_block"``: the tokens that enter the first block.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If an option is unknown.
        InputError: If there is no such composite.
    """

    needs_gradients = True
    has_matrix = False
    is_native = True
    takes_windows = True
    _silence = "no rule lets any relevance through."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        composite: str | Composite,
        sign: Sign = "signed",
        destination: Destination = "input",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        check_choice("sign", sign, SIGNS)
        check_choice("destination", destination, get_args(Destination))
        self.sign: Sign = sign
        self.destination: Destination = destination
        self.composite = composite
        self._rules_of_operations = find_composite(composite)

    def layer_relevance(
        self, inputs: Any, target: Target = None, additional_forward_args: Any = None, **options: Any
    ) -> tuple[Tensor, ...]:
        """Relevance of every token between blocks.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``against``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            L + 1 tensors (B,N): tokens that enter the first block, then tokens that leave each block; prefix and
            special tokens included. Signed, in the units of :meth:`attribute`, whatever ``sign`` is.
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)
        asked = Propagation(self._rules_of_operations, at_blocks=True)
        return self._explain(query, lambda trace: _propagated(trace).blocks, asked)[0]

    def conservation(
        self, inputs: Any, target: Target = None, additional_forward_args: Any = None, **options: Any
    ) -> ConservationReport:
        """How much relevance is left at every stage, and which operations took the rest; ``print`` shows a table.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``against`` and ``readout`` of :meth:`attribute`.

        Returns:
            Sums of relevance for every sample: at the score, between blocks, at the input; and what each kind of
            operation received and passed on.
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)
        flows: list[Flow] = []
        asked = Propagation(self._rules_of_operations, at_blocks=True, at_inputs=True, ledger=flows)
        (sums,) = self._explain(query, _sums, asked)
        return conservation_report(self._rules_of_operations.name, sums, flows)

    @property
    def _propagation(self) -> Propagation:
        at_input = self.destination == "input"
        return Propagation(self._rules_of_operations, at_inputs=at_input, at_blocks=not at_input)

    def _map(self, trace: AttentionTrace, query: Query, return_input_shape: bool) -> Tensor:
        relevance = _propagated(trace)
        if self.destination == "first_block":
            return super()._map(trace, query, return_input_shape)
        native = relevance.inputs
        if native is None:
            raise ValueError("The trace holds no relevance of the input.")
        layout, inputs = trace.layout, query.given.tensor
        warn_of_silence(native.flatten(1), self._silence)
        if inputs.dim() == 4:
            if return_input_shape:
                return self._side(native.contiguous())
            grid = layout.grid
            if grid is None:
                raise ValueError("An image has a grid.")
            return self._side(pixels_to_grid(native, grid, patch_size=layout.patch_size))
        if inputs.dim() == 3 and return_input_shape:
            return self._side(native.contiguous())
        return self._finished(self._side(native.sum(-1)), layout)

    def _relevance(self, trace: AttentionTrace) -> Tensor:
        return self._side(_propagated(trace).blocks[0])

    def _side(self, relevance: Tensor) -> Tensor:
        if self.sign == "signed":
            return relevance
        return (relevance if self.sign == "positive" else -relevance).clamp(min=0)

    def _refuse(self, trace: AttentionTrace) -> NoReturn:
        raise AttributionError(
            f"{type(self).__name__} propagates relevance to the input and has no matrix from token to token. Call "
            "attribute(), or layer_relevance() for tokens between blocks."
        )

    _matrix = _layer_matrices = _rows_by_layer = _refuse


def _propagated(trace: AttentionTrace) -> PropagatedRelevance:
    if trace.relevance is None:
        raise ValueError("The trace holds no relevance.")
    return trace.relevance


def _sums(trace: AttentionTrace) -> tuple[Tensor, ...]:
    relevance = _propagated(trace)
    places = [*reversed(relevance.blocks), *([] if relevance.inputs is None else [relevance.inputs])]
    return tuple(one.double().flatten(1).sum(1) for one in places)
