"""The base of all methods: capture, forward, target, at most one backward; the method gets the layers.

The base asks a method what it needs, never which method it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from attrib_plugin.errors import InputError, TargetIgnoredWarning
from attrib_plugin.families import ReadoutArgument, find_member
from attrib_plugin.functional import divide_rows, overwrite_special
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.functional.finished_rows import DIVISORS, SPECIALS, Divisor, Special
from attrib_plugin.methods.base.blocks import MAX_CHUNK_BYTES, checked_chunk
from attrib_plugin.methods.base.caller import opening_of, warn_caller, warn_of_silence
from attrib_plugin.methods.base.calling import module_inside
from attrib_plugin.methods.base.forward_pass import Demand, Query, Subject, Tap, explain_targets
from attrib_plugin.methods.base.inputs import check_input, checked_place
from attrib_plugin.methods.base.layers import AttentionLayer, layers_of
from attrib_plugin.methods.base.propagation import Propagation
from attrib_plugin.methods.base.targets import Target, check_targets
from attrib_plugin.methods.base.windows import refuse_windows
from attrib_plugin.postprocessing.grid import grid_to_pixels, tokens_to_grid
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T", Tensor, tuple[Tensor, ...])


class AttentionAttribution(Attribution):
    """Attribution read from attention; a method declares what it needs and gives its formula.

    A method sets :attr:`needs_gradients` and implements ``_rows`` (rows of its product of layers) and
    ``_layer_matrices`` (what it takes from each layer); one without a matrix from token to token says so by
    :attr:`has_matrix` and gives ``_relevance`` alone; one whose relevance belongs to single pixels and embedding
    dimensions says so by :attr:`is_native`. One that carries its rows below each layer's mergings sets
    :attr:`takes_windows` (see ``AttentionLayer.below``). It is final: variants are named parameters.

    Args:
        forward_func: The model itself, or a function around it that takes the same arguments.
        model: The module inside ``forward_func``, where that is a function.
        readout: Which tokens the head reads: ``"cls"``, ``"mean"``, ``"last"`` (last real token), an int, a
            LongTensor (B,) of positions, a FloatTensor (T,) or (B,T) of weights (used as they are), or
            ``None`` to ask the model's family. Attention pooling is read as its probabilities, averaged over heads
            and not weighted by gradients.
        grid: Rows and columns of image patches, for models that no family knows.
        prefix_tokens: Leading tokens that are no patches, for models that no family knows.
        special: What stands at special tokens of a finished map: ``"keep"``, ``"zero_first"``, ``"min_first"`` or
            ``"zero_ends"``; see :func:`~attrib_plugin.functional.overwrite_special`.
        divide_by: ``"max"`` divides each finished map by its largest value beyond the prefix tokens.
        max_chunk_bytes: Largest block of attention probabilities formed at a time, in bytes (32 MiB by default; twice
            to thrice that is used while it is worked on). Speed and memory depend on it, the result does not.

    Raises:
        InputError: If ``forward_func`` is no module and ``model`` is not given, or ``grid`` or ``prefix_tokens`` is no
            count.
        ValueError: If ``special`` or ``divide_by`` is unknown, or ``max_chunk_bytes`` below 1.
    """

    needs_gradients: ClassVar[bool] = False
    has_matrix: ClassVar[bool] = True
    is_native: ClassVar[bool] = False
    takes_windows: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Preset]] = {}
    _silence: ClassVar[str] = "no attention carries it."

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = cls.__dict__.get("attribute")
        if own is not None and not hasattr(own, "__wrapped__"):
            # NoiseTunnel calls attribute.__wrapped__; a subclass must not be able to forget it.
            cls.attribute = log_usage()(own)  # type: ignore[method-assign]  # the same function, wrapped

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        model: nn.Module | None = None,
        readout: ReadoutArgument = None,
        grid: tuple[int, int] | None = None,
        prefix_tokens: int | None = None,
        special: Special = "keep",
        divide_by: Divisor = "nothing",
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> None:
        super().__init__(forward_func)
        check_choice("special", special, SPECIALS)
        check_choice("divide_by", divide_by, DIVISORS)
        self.model = module_inside(forward_func, model, type(self).__name__)
        self.readout = readout
        self.grid, self.prefix_tokens = checked_place(grid, prefix_tokens)
        self.special: Special = special
        self.divide_by: Divisor = divide_by
        self.max_chunk_bytes = checked_chunk(max_chunk_bytes)
        self._member = find_member(self.model)

    @classmethod
    def from_preset(cls, name: str, forward_func: Callable[..., Any], **overrides: Any) -> Self:
        """The method as a published implementation runs it.

        Args:
            name: Name of the preset, one of ``presets`` of the class.
            forward_func: As in the constructor.
            **overrides: Constructor arguments that win over the preset's.

        Returns:
            The method.

        Raises:
            InputError: If there is no such preset.
        """
        if name not in cls.presets:
            known = ", ".join(cls.presets) or "none"
            raise InputError(f"{cls.__name__} has no preset {name!r}. Its presets: {known}.")
        return cls(forward_func, **{**cls.presets[name].options, **overrides})

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        against: Target = None,
        readout: ReadoutArgument = None,
        return_input_shape: bool = True,
        internal_batch_size: int | None = None,
    ) -> Any:
        """Relevance of every input token or patch.

        Args:
            inputs: Token ids (B,T), images (B,C,H,W) or embeddings (B,T,D), or a tuple with one of them.
            target: Which output is explained, in any of Captum's forms; ``None`` is each sample's predicted class
                (under ``NoiseTunnel`` that of every noisy copy), or the value itself for one output a sample.
                Class-agnostic methods ignore it.
            additional_forward_args: Further positional arguments of the forward function.
            forward_kwargs: Keyword arguments of the forward function, such as ``attention_mask``.
            against: Explain output ``target`` minus output ``against`` (gradient methods).
            readout: Overrides the constructor's.
            return_input_shape: Return the shape of ``inputs``: each channel or embedding dimension a copy, each
                pixel a copy of its patch. If false, return one value a patch (B,1,rows,columns) or token (B,T).
            internal_batch_size: Largest number of samples run at once; the result does not depend on it.

        Returns:
            Relevance in the units that the class states; a tuple if ``inputs`` was a tuple.

        Raises:
            InputError: If an input cannot be right.
            TargetError: If a target does not select one score a sample.
            UnknownModelError: If read-out or grid cannot be known.
            CaptureError: If the model's attention cannot be read or followed.
        """
        query = self._query(
            inputs,
            additional_forward_args,
            targets=(target,),
            forward_kwargs=forward_kwargs,
            against=against,
            readout=readout,
            internal_batch_size=internal_batch_size,
        )
        (relevance,) = self._explain(query, lambda trace: self._map(trace, query, return_input_shape))
        return (relevance,) if query.given.in_tuple else relevance

    def attribute_targets(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Sequence[Target],
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        against: Target = None,
        readout: ReadoutArgument = None,
        return_input_shape: bool = True,
        internal_batch_size: int | None = None,
    ) -> Any:
        """Relevance for several targets of the same inputs; they share the forward pass.

        Args:
            inputs: As in :meth:`attribute`.
            targets: K targets, each in any form that :meth:`attribute` takes.
            additional_forward_args: As in :meth:`attribute`.
            forward_kwargs: As in :meth:`attribute`.
            against: As in :meth:`attribute`, for every target.
            readout: As in :meth:`attribute`.
            return_input_shape: As in :meth:`attribute`.
            internal_batch_size: As in :meth:`attribute`.

        Returns:
            Relevance (K, ...), each as :meth:`attribute` returns it; a tuple if ``inputs`` was a tuple.

        Raises:
            InputError: If there is no target, or as in :meth:`attribute`.
        """
        check_targets(targets)
        query = self._query(
            inputs,
            additional_forward_args,
            targets=tuple(targets),
            forward_kwargs=forward_kwargs,
            against=against,
            readout=readout,
            internal_batch_size=internal_batch_size,
        )
        relevance = torch.stack(self._explain(query, lambda trace: self._map(trace, query, return_input_shape)))
        return (relevance,) if query.given.in_tuple else relevance

    def matrix(self, inputs: Any, target: Target = None, additional_forward_args: Any = None, **options: Any) -> Tensor:
        """Relevance of every token for every token.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``against``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            (B,N,N) with prefix and special tokens; rows are output tokens. Memory N x N a sample.
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)
        return self._explain(query, self._matrix)[0]

    def head_attention(self, inputs: Any, additional_forward_args: Any = None, **options: Any) -> tuple[Tensor, ...]:
        """Attention probabilities of every layer and head, raw.

        Args:
            inputs: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            L tensors (B,H,N,N), from the input upwards; rows are queries.
        """
        query = self._query(inputs, additional_forward_args, **options)
        (probabilities,) = explain_targets(
            self._subject,
            query,
            Demand(),
            lambda trace: tuple(layer.by_head(lambda block: block.probs) for layer in layers_of(trace)),
        )
        return probabilities

    def layer_attention(
        self, inputs: Any, target: Target = None, additional_forward_args: Any = None, **options: Any
    ) -> tuple[Tensor, ...]:
        """The matrix that this method takes from every layer.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``against``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            L tensors (B,N,N), from the input upwards; see the class for what they hold.
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)
        return self._explain(query, self._layer_matrices)[0]

    def layer_rows(
        self, inputs: Any, target: Target = None, additional_forward_args: Any = None, **options: Any
    ) -> tuple[Tensor, ...]:
        """The read-out row after each layer: the same map, had the model ended there.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``against``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            L tensors (B,N) over all tokens, from the input upwards; the last is the row that :meth:`attribute` maps.
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)
        return self._explain(query, self._finished_by_layer)[0]

    # What a method gives.

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        """Relevance (B,S,N) of all input tokens for S combinations ``readout`` (B,S,N) of the last layer's tokens."""
        raise NotImplementedError(f"{type(self).__name__} gives no formula.")

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        """The matrix (B,N,N) of every layer."""
        raise NotImplementedError(f"{type(self).__name__} gives no formula.")

    def _matrix(self, trace: AttentionTrace) -> Tensor:
        """Relevance (B,N,N) of all tokens for all tokens."""
        readout = trace.layout.readout
        identity = torch.eye(readout.shape[-1], dtype=readout.dtype, device=readout.device)
        return self._rows(layers_of(trace), identity.expand(len(readout), -1, -1), trace.layout)

    def _rows_by_layer(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        """The read-out row (B,N) after every layer."""
        layers, readout, rows = layers_of(trace), trace.layout.readout[:, None], list[Tensor]()
        for layer in reversed(layers):
            rows.append(self._rows(layers[: layer.position + 1], readout, trace.layout).squeeze(1))
            readout = layer.below(readout)
        return tuple(reversed(rows))

    def _relevance(self, trace: AttentionTrace) -> Tensor:
        """The row (B,N) that :meth:`attribute` maps."""
        return self._row(layers_of(trace), trace.layout)

    @property
    def _tap(self) -> Tap | None:
        """Which layer's activations the method weighs in place of attention."""
        return None

    @property
    def _propagation(self) -> Propagation | None:
        """What relevance the method asks for."""
        return None

    # What the base does with it.

    @property
    def _subject(self) -> Subject:
        return Subject(self.forward_func, self.model, self._member)

    def _query(
        self,
        inputs: Any,
        additional_forward_args: Any,
        *,
        targets: tuple[Target, ...] = (None,),
        forward_kwargs: Mapping[str, Any] | None = None,
        against: Target = None,
        readout: ReadoutArgument = None,
        internal_batch_size: int | None = None,
    ) -> Query:
        return Query(
            given=check_input(inputs, additional_forward_args, forward_kwargs, self.forward_func, self._member),
            targets=targets,
            against=against,
            readout=self.readout if readout is None else readout,
            grid=self.grid,
            prefix_tokens=self.prefix_tokens,
            internal_batch_size=internal_batch_size,
            max_chunk_bytes=self.max_chunk_bytes,
            opening=opening_of(self),
        )

    def _explain(
        self, query: Query, read: Callable[[AttentionTrace], _T], propagation: Propagation | None = None
    ) -> list[_T]:
        if not self.needs_gradients and not (query.targets == (None,) and query.against is None):
            warn_caller(
                f"{type(self).__name__} does not depend on the class: target and against are ignored, and the map is "
                "the same for every class.",
                TargetIgnoredWarning,
            )
        if not self.takes_windows:
            refuse_windows(self._member, type(self).__name__)
        demand = Demand(self.needs_gradients, self._tap, propagation or self._propagation)
        return explain_targets(self._subject, query, demand, read)

    def _row(self, layers: Sequence[AttentionLayer], layout: TokenLayout) -> Tensor:
        return self._rows(layers, layout.readout[:, None], layout).squeeze(1)

    def _finished(self, row: Tensor, layout: TokenLayout) -> Tensor:
        row = overwrite_special(row, self.special, padding=layout.padding)
        return divide_rows(row, self.divide_by, prefix_tokens=layout.prefix_tokens)

    def _finished_by_layer(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(self._finished(row, trace.layout) for row in self._rows_by_layer(trace))

    def _map(self, trace: AttentionTrace, query: Query, return_input_shape: bool) -> Tensor:
        layout, inputs = trace.layout, query.given.tensor
        relevance = self._finished(self._relevance(trace), layout)
        if layout.grid is None:
            warn_of_silence(relevance, self._silence)
            return (
                relevance[..., None].repeat(1, 1, inputs.shape[-1])
                if inputs.dim() == 3 and return_input_shape
                else relevance
            )
        patches = tokens_to_grid(relevance, layout.grid, layout.prefix_tokens)
        # A class token may hold its own start while no patch has any relevance.
        warn_of_silence(patches.flatten(1), self._silence)
        if not return_input_shape:
            return patches
        size = (inputs.shape[-2], inputs.shape[-1])
        return grid_to_pixels(patches, size, patch_size=layout.patch_size).repeat(1, inputs.shape[1], 1, 1)
