"""Relevance of an encoder's tokens for what the decoder says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attrib_plugin.functional import (
    cross_attention_relevance,
    self_attention_update,
)
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.methods.base import (
    SIGNS,
    AttentionAttribution,
    Query,
    RowBlock,
    Sign,
    Subject,
    check_decoder_ids,
    encoder_with_decoder,
    evidence_by_sign,
    layers_of,
    net_evidence,
)
from attrib_plugin.records import AttentionTrace, Preset


class EncoderDecoderRelevance(AttentionAttribution):
    """Which tokens of the encoder an output of the decoder rests on: a word of a translation, a detected object.

    The rules of Chefer et al. for an encoder with a decoder, on the unmodified model. ``target`` is a pair (decoder
    position, class): (position, token) for text, (query, class) for object queries. The decoder token at that position
    is read, or the one that the family knows to be read (the last end-of-text of a BART classifier).
    :meth:`attribute` gives relevance of encoder tokens, :meth:`attribute_both` of decoder tokens too.

    Formula: ``E = mean_h (±∂y/∂A ⊙ A)⁺`` for each call. Encoder: ``R_ii ← R_ii + E·R_ii`` from ``I``. Decoder:
    ``R_qq ← R_qq + E·R_qq`` from ``I`` and ``R_qi ← R_qi + E·R_qi`` from ``0``. Cross-attention:
    ``R_qi ← R_qi + R̃_qqᵀ·E·R̃_ii`` with ``R̃ = I + rn(R - I)``, rows normalised by ``rn``; 0/0 is 0. Relevance is the
    row of R_qi of the token read; for decoder tokens it is the row of R_qq minus that token's own start.

    Units: those of the score, first order; there is no sum that it must reach. Sign: as in :class:`GradientRollout`.

    ``matrix`` gives R_qi (B,T,N) for all T decoder tokens; ``layer_attention`` E of every call, in the order of calls;
    ``layer_rows`` the row over encoder tokens after each cross-attention.

    Cost: one forward and one backward pass; each encoder layer's probabilities twice more (sums of rows, then the row),
    each decoder layer's once. Memory: that of the passes, one block of the encoder's probabilities, and for each
    sample the decoder's T x T and T x N matrices.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout`` (of decoder tokens), ``grid`` and
            ``prefix_tokens`` (of encoder tokens).
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        normalize_self_attention: Whether R̃ has normalised rows; if not, it is R.
        apply_self_in_rule_10: Whether both R̃ take part in cross-attention; if not, E alone is added.
        **options: ``model``, ``readout``, ``grid`` and ``prefix_tokens``.

    Raises:
        ValueError: If ``sign`` is unknown.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 5 to 10.
    """

    needs_gradients = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "chefer2021_detr": Preset(
            options={"sign": "positive", "normalize_self_attention": True, "apply_self_in_rule_10": True},
            paper="Chefer, Gur and Wolf 2021b, arXiv:2103.15679",
            repository="hila-chefer/Transformer-MM-Explainability",
            note="The DETR notebook with use_lrp=False, as in the paper's text. There 0/0 makes a whole addition zero.",
        )
    }
    _silence = "its gradient vanishes, or all evidence has the other sign."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        sign: Sign = "positive",
        normalize_self_attention: bool = True,
        apply_self_in_rule_10: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        check_choice("sign", sign, tuple(SIGNS))
        self.sign: Sign = sign
        self.normalize_self_attention = normalize_self_attention
        self.apply_self_in_rule_10 = apply_self_in_rule_10
        # What families refuse is cross-attention, which is followed here.
        self._is_known = self._member.family.refusal(self._member.module) is not None
        self._member = self._member.unrefused

    def attribute_both(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        return_input_shape: bool = True,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Relevance of the encoder's and of the decoder's tokens.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            return_input_shape: As in :meth:`attribute`, for the encoder.
            **options: ``forward_kwargs``, ``against``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            The map of the encoder's input, as :meth:`attribute` gives it, and decoder tokens (B,T).
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)

        def both(trace: AttentionTrace) -> tuple[Tensor, ...]:
            gained, _ = self._decoded(trace)[-1]
            return self._map(trace, query, return_input_shape), self._read(gained, trace)

        encoder, decoder = self._explain(query, both)[0]
        return encoder, decoder

    def head_attention(self, inputs: Any, additional_forward_args: Any = None, **options: Any) -> tuple[Tensor, ...]:
        """Attention probabilities of every call and head, raw.

        Args:
            inputs: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            (B,H,N,N) for self-attention of the encoder, (B,H,T,T) for that of the decoder, (B,H,T,N) for
            cross-attention, in the order of calls.
        """
        # No token is read, so none need be known.
        return super().head_attention(inputs, additional_forward_args, **{"readout": 0, **options})

    @property
    def _subject(self) -> Subject:
        return replace(super()._subject, arrange=encoder_with_decoder)

    def _query(self, inputs: Any, additional_forward_args: Any, **options: Any) -> Query:
        query = super()._query(inputs, additional_forward_args, **options)
        if self._is_known:
            check_decoder_ids(query.given, self._member)
        return query

    def _evidence(self, block: RowBlock) -> Tensor:
        return evidence_by_sign(block, self.sign)

    def _net(self, by_sign: Tensor) -> Tensor:
        return net_evidence(by_sign, self.sign)

    def _relevance(self, trace: AttentionTrace) -> Tensor:
        _, between = self._decoded(trace)[-1]
        return self._encoded(between, trace.parts["cross"].layout.readout, trace)

    def _matrix(self, trace: AttentionTrace) -> Tensor:
        _, between = self._decoded(trace)[-1]
        return self._net(self._through_encoder(between, trace))

    def _rows_by_layer(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        readout = trace.parts["cross"].layout.readout
        return tuple(self._encoded(between, readout, trace) for _, between in self._decoded(trace))

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(self._net(layer.matrix(self._evidence)) for layer in layers_of(trace))

    def _decoded(self, trace: AttentionTrace) -> list[tuple[Tensor, Tensor]]:
        """R_qq - I (sign,B,T,T) and what R̃_ii will be applied to (sign,B,T,N), up to each cross-attention."""
        own, cross = trace.parts["decoder"], trace.parts["cross"]
        readout = own.layout.readout
        batch, queries = readout.shape
        gained = readout.new_zeros(len(SIGNS[self.sign]), batch, queries, queries)
        between = readout.new_zeros(*gained.shape[:-1], trace.layout.readout.shape[-1])
        crossing = {call.index for call in cross.calls}
        by_call = zip((*own.calls, *cross.calls), (*layers_of(own), *layers_of(cross)), strict=True)
        states = []
        for call, layer in sorted(by_call, key=lambda pair: pair[0].index):
            evidence = layer.matrix(self._evidence)
            if call.index in crossing:
                between = between + cross_attention_relevance(
                    evidence,
                    gained,
                    None,
                    normalize_self_attention=self.normalize_self_attention,
                    apply_self_in_rule_10=self.apply_self_in_rule_10,
                )
                states.append((gained, between))
            else:
                gained, between = self_attention_update(evidence, gained, between)
        return [*states[:-1], (gained, between)]

    def _read(self, by_query: Tensor, trace: AttentionTrace) -> Tensor:
        """The row of the decoder tokens that are read."""
        return self._net((trace.parts["cross"].layout.readout[:, None] @ by_query).squeeze(-2))

    def _encoded(self, between: Tensor, readout: Tensor, trace: AttentionTrace) -> Tensor:
        return self._net(self._through_encoder(readout[:, None] @ between, trace).squeeze(-2))

    def _through_encoder(self, rows: Tensor, trace: AttentionTrace) -> Tensor:
        """Rows (sign,B,S,N) times R̃_ii, which is not formed."""
        if not self.apply_self_in_rule_10:
            return rows
        layers = layers_of(trace.parts["encoder"])
        start = rows
        if self.normalize_self_attention:
            sums = rows.new_zeros(rows.shape[0], rows.shape[1], rows.shape[-1])
            for layer in layers:
                sums = sums + layer.applied_to(1 + sums, self._evidence)
            start = rows / sums.where(sums != 0, torch.ones_like(sums))[..., None, :]
        gained = torch.zeros_like(rows)
        for layer in reversed(layers):
            gained = gained + layer.times(start + gained, self._evidence, averages_heads=True, keeps_nothing=True)
        return rows + gained
