"""Transformer attribution: relevance of attention, weighted with its gradient and rolled out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.functional import row_normalized_gain
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.methods.base import (
    SIGNS,
    AttentionAttribution,
    AttentionLayer,
    Propagation,
    RowBlock,
    Sign,
    Target,
    find_composite,
    from_the_top,
    layers_of,
    net_evidence,
    to_the_input,
    weighted_by_sign,
)
from attrib_plugin.propagation import Composite
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout

Weighting = Literal["gradient", "none"]

_PAPER = "Chefer, Gur and Wolf 2021a, arXiv:2012.09838"
_REPOSITORY = "hila-chefer/Transformer-Explainability"


class TransformerAttribution(AttentionAttribution):
    """Which tokens the explained score rests on: relevance of attention times its gradient, rolled out.

    Layer-wise relevance propagation gives every attention probability its relevance R; where R and the gradient of
    the score agree, the pair counts. Depends on the target. Follows self-attention only; relevance that stays inside
    a token through MLPs is not redistributed.

    Formula: ``E_l = mean_h (∂y/∂A_l ⊙ R_l)⁺`` and ``C ← C + E_l·C`` from ``C = I``; relevance is the read-out row of
    C minus the read-out's own start. Relevance starts as one at the target and goes down by the rules of a composite:
    positive contributions through linear layers, halves through the two products of attention, residual sums rescaled
    to conserve each sample's total, norms, activations and softmax passed by.

    Units: the score's, first order; there is no sum that it must reach. Sign: ``"positive"`` (the paper) keeps pairs
    whose gradient and relevance agree, ``"negative"`` those where they disagree, as at least 0; ``"signed"`` is
    positive minus negative.

    Rules divide by sums that can be small. In float32 a map can differ from its float64 twin by some percent; the
    conserving rule flips a branch whose sum crosses zero. Where it matters, run ``model.double()``.

    Cost: one forward pass, one backward pass for gradients and one for relevance, which makes three products where a
    backward pass makes one; tokens without relevance, as most are above the last attention, are left out. About 2.8
    times a forward and backward pass on ViT-B/16 (``benchmarks/speed.py``); ``against`` takes a relevance pass more.
    Memory: activations of the forward pass.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        start_layer: First layer of the recursion, from 0. The authors' ViT evaluations use 1.
        weighting: ``"gradient"``, or ``"none"`` for relevance alone (the authors' ablation, "rollout" in their code).
        layer: One layer in place of all of them, from 0, or from -1 backwards: with ``weighting="none"`` partial LRP.
        row_normalize: Divide each row of ``I + E_l`` by its sum, as the authors' BERT code does.
        include_identity: Keep the read-out's own start in the row, as the authors' code does.
        composite: Rules by name or as a :class:`~attrib_plugin.propagation.Composite`.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If an option is impossible, or (when the model is run) ``start_layer`` is no layer.
        InputError: If there is no such composite, or (when the model is run) ``layer`` is no layer.
        UnsupportedOperationError: If relevance reaches an operation without a rule (when the model is run).

    Reference:
        Chefer, Gur and Wolf 2021a, arXiv:2012.09838, equations 13 and 14.
    """

    needs_gradients = True
    takes_windows = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "chefer2021_vit": Preset(
            options={"composite": "chefer2021_vit", "include_identity": True},
            paper=_PAPER,
            repository=_REPOSITORY,
            note="As its ViT runs: no row normalisation, an unsigned stabiliser of 1e-9. start_layer is 0 in its "
            "notebooks and 1 in its published evaluations.",
        ),
        "chefer2021_bert": Preset(
            options={
                "composite": "chefer2021_bert", "row_normalize": True, "include_identity": True,
                "special": "min_first",
            },
            paper=_PAPER,
            repository=_REPOSITORY,
            note="As its BERT runs: rows normalised, the mask's addition a residual sum, the class token set to the "
            "smallest value. Its default start_layer=11 is the last layer of BERT-base; here 0, as in its notebook.",
        ),
    }  # fmt: skip
    _silence = "its gradient vanishes, or gradient and relevance disagree everywhere."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        sign: Sign = "positive",
        start_layer: int = 0,
        weighting: Weighting = "gradient",
        layer: int | None = None,
        row_normalize: bool = False,
        include_identity: bool = False,
        composite: str | Composite = "chefer2021",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, **options)
        check_choice("sign", sign, tuple(SIGNS))
        check_choice("weighting", weighting, get_args(Weighting))
        self.sign: Sign = sign
        self.start_layer = start_layer
        self.weighting = weighting
        self.layer = layer
        self.row_normalize = row_normalize
        self.include_identity = include_identity
        self.composite = composite
        self._rules_of_operations = find_composite(composite)

    @property
    def _propagation(self) -> Propagation:
        return Propagation(self._rules_of_operations, at_calls=True)

    def _evidence(self, block: RowBlock) -> Tensor:
        """Evidence of each sign, (sign,B,R,N)."""
        if self.weighting != "gradient":
            return weighted_by_sign(block.relevant, torch.ones_like(block.relevant), self.sign)
        gradients = block.weighted[1]
        return weighted_by_sign(block.relevant, gradients, self.sign, out=gradients if block.is_lent else None)

    def _gain(self, block: RowBlock) -> Tensor:
        evidence = self._evidence(block)
        return row_normalized_gain(evidence, rows=block.rows) if self.row_normalize else evidence

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        gained = readout.new_zeros(2 if self.sign == "signed" else 1, *readout.shape)
        if self.layer is not None:
            layer = _one_of(layers, self.layer)
            return self._net(layer.times(_down_to(layers, layer, readout) + gained, self._evidence))
        separate = not self.row_normalize
        for layer in from_the_top(layers, self.start_layer):
            # The start is carried beside the gain: added to it, small relevance would drown in the one.
            gained = layer.below(
                gained + layer.times(readout + gained, self._gain, averages_heads=separate, keeps_nothing=True)
            )
            readout = layer.below(readout)
        gained, readout = (to_the_input(layers[: self.start_layer], rows) for rows in (gained, readout))
        return self._net(gained) + readout if self.include_identity and self.sign != "signed" else self._net(gained)

    def head_relevance(
        self, inputs: Any, target: Target = None, additional_forward_args: Any = None, **options: Any
    ) -> tuple[Tensor, ...]:
        """Relevance of every attention probability, head by head, before its gradient has a say.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``against``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            L tensors (B,H,N,N), from the input upwards; rows are queries. Signed, in shares of the score, which is
            one; memory N x N for each sample and head.
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)
        found = self._explain(
            query, lambda trace: tuple(layer.by_head(lambda block: block.relevant) for layer in layers_of(trace))
        )
        return found[0]

    def _net(self, by_sign: Tensor) -> Tensor:
        return net_evidence(by_sign, self.sign)

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(self._net(layer.matrix(self._evidence)) for layer in layers_of(trace))

    def _matrix(self, trace: AttentionTrace) -> Tensor:
        gained = super()._matrix(trace)
        if self.include_identity or self.sign == "signed" or self.layer is not None:
            return gained
        identity = torch.eye(gained.shape[-2], dtype=gained.dtype, device=gained.device)
        return gained + to_the_input(layers_of(trace), identity)


def _one_of(layers: Sequence[AttentionLayer], layer: int) -> AttentionLayer:
    count = layers[0].n_layers
    if not -count <= layer < count:
        raise InputError(f"layer must be one of the {count} layers 0 to {count - 1}, not {layer}.")
    return layers[min(layer % count, len(layers) - 1)]


def _down_to(layers: Sequence[AttentionLayer], layer: AttentionLayer, readout: Tensor) -> Tensor:
    for above in reversed(layers):
        if above.position == layer.position:
            return readout
        readout = above.below(readout)
    return readout
