"""``attention_figures``: from a model and a text or an image to static pictures of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError
from attrib_plugin.functional import (
    HeadFusion,
    attention_flow,
    attention_rollout,
    flow_graph,
    fuse_heads,
    mix_residual,
)
from attrib_plugin.runner.attention_reading import ReadAttention, read_attention
from attrib_plugin.visualization import (
    AttentionMap,
    ColorScale,
    Panel,
    attention_figure,
    flow_graph_figure,
    head_figure,
    image_figure,
    layer_rows_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Edges = Literal["attention", "rollout", "flow"]
"""What passes along an edge of the graph: one layer's attention; the share of the target; a maximum flow to it."""


@dataclass(frozen=True, eq=False)
class AttentionFigures:
    """Attention of one forward pass, and every picture of it as a matplotlib figure.

    Layers and heads are counted from 0, or from -1 backwards. No picture runs the model again, and none stays in
    pyplot: ``figure.savefig("name.png")`` (or ``.svg``, ``.pdf``) writes it.

    Attributes:
        read: The attention with the names of its tokens.
    """

    read: ReadAttention

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Probabilities of every layer (head,query,key)."""
        return self.read.layers

    @property
    def tokens(self) -> tuple[str, ...]:
        """Names of the tokens."""
        return self.read.tokens

    def fused(self, head_fusion: HeadFusion = "mean") -> Tensor:
        """Attention of all layers with heads fused.

        Args:
            head_fusion: ``"mean"``, ``"max"``, ``"min"`` or a callable that removes axis -3.

        Returns:
            (layer,query,key).

        Raises:
            InputError: If layers have different numbers of tokens.
        """
        if len(sizes := {layer.shape[-2:] for layer in self.layers}) > 1:
            raise InputError(f"Layers of different sizes, {sorted(map(tuple, sizes))}, have no common map.")
        return torch.stack([fuse_heads(layer[None], head_fusion)[0] for layer in self.layers])

    def heat_map(
        self,
        layer: int = -1,
        head: int | None = None,
        *,
        head_fusion: HeadFusion = "mean",
        scale: ColorScale = "linear",
    ) -> Figure:
        """Heat map of one layer: one head, or all heads fused.

        Args:
            layer: Which layer.
            head: Which head; ``None`` fuses all.
            head_fusion: As in :meth:`fused`.
            scale: ``"root"`` gives small values more ink.

        Returns:
            The figure.
        """
        return attention_figure([self.map_of(layer, head, head_fusion)], self.tokens, title=self._title, scale=scale)

    def first_and_last(self, head: int | None = None, *, scale: ColorScale = "linear") -> Figure:
        """The first layer beside the last one, on one scale.

        Args:
            head: Which head of both; ``None`` is the mean over heads.
            scale: As in :meth:`heat_map`.

        Returns:
            The figure.
        """
        maps = [self.map_of(0, head), self.map_of(-1, head)]
        return attention_figure(maps, self.tokens, title=self._title, scale=scale)

    def heads(
        self,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        *,
        shared: bool = False,
        scale: ColorScale = "root",
    ) -> Figure:
        """Small heat maps of all heads of all layers.

        Args:
            layers: Which layers; ``None`` is all.
            heads: Which heads; ``None`` is all.
            shared: Whether one scale holds for all maps.
            scale: As in :meth:`heat_map`.

        Returns:
            The figure.
        """
        return head_figure(
            self.layers, self.tokens, layers=layers, heads=heads, title=self._title, shared=shared, scale=scale
        )

    def readout_rows(self, *, row_scale: bool = False, scale: ColorScale = "linear") -> Figure:
        """What the read-out (the class token, mostly) attends to, layer by layer, heads averaged.

        Args:
            row_scale: Whether every layer is scaled by its own largest value.
            scale: As in :meth:`heat_map`.

        Returns:
            The figure.
        """
        rows = self._readout @ self.fused()
        title = f"What {self._readout_name} attends to · {self._title}"
        return layer_rows_figure(list(rows), self.tokens, title=title, row_scale=row_scale, scale=scale)

    def residual_adjusted(self, layer: int = -1, *, residual: float = 0.5, scale: ColorScale = "linear") -> Figure:
        """One layer's attention beside the same with the residual path mixed in, ``(1 - r)·A + r·I``.

        Args:
            layer: Which layer.
            residual: Share r of the residual path, between 0 and 1.
            scale: As in :meth:`heat_map`.

        Returns:
            The figure.
        """
        attention = self.map_of(layer)
        mixed = AttentionMap(
            f"{1 - residual:g}·A + {residual:g}·I", mix_residual(torch.as_tensor(attention.values), residual)
        )
        return attention_figure([attention, mixed], self.tokens, title=self._title, scale=scale)

    def rollout(
        self,
        *,
        residual: float = 0.5,
        start_layer: int = 0,
        head_fusion: HeadFusion = "mean",
        scale: ColorScale = "linear",
    ) -> Figure:
        """Rollout of all layers: how much of each input token is in each token at the top.

        Args:
            residual: Share of the residual path in each layer.
            start_layer: First layer of the product.
            head_fusion: As in :meth:`fused`.
            scale: As in :meth:`heat_map`.

        Returns:
            The figure.
        """
        whole = attention_rollout(self.fused(head_fusion)[:, None], residual=residual, start_layer=start_layer)[0]
        title = f"rollout of layers {start_layer} to {len(self.layers) - 1}"
        return attention_figure([AttentionMap(title, whole)], self.tokens, title=self._title, scale=scale)

    def flow_graph(
        self,
        edges: Edges = "rollout",
        *,
        target: int | None = None,
        source: int | None = None,
        residual: float = 0.5,
        head_fusion: HeadFusion = "mean",
        hide_below: float | None = None,
    ) -> Figure:
        """The graph between layers, with edges by attention, rollout or flow.

        Args:
            edges: ``"attention"``: what each layer attends to. ``"rollout"``: the share of the target that passes along
                each edge, with each input token's share beside its name. ``"flow"``: one maximum flow to the target,
                with the maximum flow from each input token alone beside its name.
            target: The token at the top; ``None`` is the one that the head reads.
            source: For ``"flow"``: the input token that it starts from; ``None`` is all together.
            residual: Share of the residual path; not used for ``"attention"``.
            head_fusion: As in :meth:`fused`.
            hide_below: Smallest value drawn; ``None`` keeps about thirty edges a layer.

        Returns:
            The figure.

        Raises:
            InputError: If ``edges`` is unknown, or the head reads more than one token and none is named.
        """
        if edges not in ("attention", "rollout", "flow"):
            raise InputError(f"edges must be 'attention', 'rollout' or 'flow', not {edges!r}.")
        attention, end = self.fused(head_fusion), self._one_target(target)
        values, title = None, f"{edges.capitalize()}"
        if edges == "attention":
            weights = attention
        elif edges == "rollout":
            weights, values = _rollout_edges(attention, end, residual)
        else:
            found = flow_graph(attention[:, None], output=end, source=source, residual=residual)
            weights, values = found.flow, attention_flow(attention[:, None], residual=residual, outputs=end)[0, 0]
            begin = "all input tokens" if source is None else f"“{self.tokens[source]}”"
            title = f"Maximum flow {found.value:.3g} from {begin}"
        return flow_graph_figure(
            weights,
            self.tokens,
            target=end,
            input_values=values,
            unit="flow" if edges == "flow" else "share",
            hide_below=hide_below,
            title=title,
        )

    def over_image(self, layers: Sequence[int] | None = None, *, head: int | None = None) -> Figure:
        """What the read-out attends to, laid over the image, one map a layer.

        Args:
            layers: Which layers; ``None`` is the first, the middle and the last.
            head: Which head; ``None`` is the mean over heads.

        Returns:
            The figure.

        Raises:
            InputError: If the input is no image.
        """
        if self.read.pixels is None or self.read.grid is None:
            raise InputError("over_image() needs an image, found a text. readout_rows() shows a text.")
        count = len(self.layers)
        wanted = dict.fromkeys((0, count // 2, count - 1)) if layers is None else layers
        panels = []
        for layer in wanted:
            attention = self.map_of(layer, head)
            row = self._readout @ torch.as_tensor(attention.values)
            patches = row[self.read.prefix_tokens :].reshape(self.read.grid)
            panels.append(Panel(attention.title, patches.numpy(), "share"))
        return image_figure(self.read.pixels, panels, title=f"input · {self._readout_name} attends to")

    def map_of(self, layer: int, head: int | None = None, head_fusion: HeadFusion = "mean") -> AttentionMap:
        """One layer's map with its title, for figures of your own.

        Args:
            layer: Which layer.
            head: Which head; ``None`` fuses all.
            head_fusion: As in :meth:`fused`.

        Returns:
            The map.

        Raises:
            InputError: If there is no such layer or head.
        """
        number = _checked(layer, len(self.layers), "layer")
        probs = self.layers[number]
        if head is not None:
            which = _checked(head, len(probs), "head")
            return AttentionMap(f"layer {number}, head {which}", probs[which])
        how = head_fusion if isinstance(head_fusion, str) else "fusion"
        return AttentionMap(f"layer {number}, {how} of {len(probs)} heads", fuse_heads(probs[None], head_fusion)[0])

    @property
    def _title(self) -> str:
        return self.read.title

    @property
    def _readout(self) -> Tensor:
        if self.read.readout is None:
            raise InputError(
                "Which token the head reads is not known for this model. Say it: "
                "attention_figures(..., readout='cls'), 'mean', 'last' or a position."
            )
        return self.read.readout.to(self.layers[0].dtype)

    @property
    def _readout_name(self) -> str:
        token = _single(self._readout)
        return "the read-out" if token is None else self.tokens[token]

    def _one_target(self, target: int | None) -> int:
        if target is not None:
            return _checked(target, len(self.tokens), "target")
        token = _single(self._readout)
        if token is None:
            raise InputError("The head of this model reads several tokens: say which one is looked at with target=.")
        return token


def attention_figures(
    model: nn.Module,
    text_or_image: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    sample: int | None = None,
    prefix_names: Sequence[str] | None = None,
    **options: Any,
) -> AttentionFigures:
    """Read a model's attention once, for any number of pictures.

    Cost: two forward passes without gradients, and memory for the attention of all layers and heads.

    Args:
        model: The model, unmodified; or a transformers pipeline, which brings tokenizer and processor along.
        text_or_image: A text; or an image as a PIL image, a file, or a tensor (C,H,W) that is ready for the model. A
            list of these or a tensor (B,C,H,W) is a batch.
        tokenizer: For a text: a fast transformers tokenizer or a ``sentencepiece.SentencePieceProcessor``.
        processor: For an image: a transformers image processor, or any function from a PIL image to a tensor.
        sample: Which one of a batch, from 0; needed if there are several.
        prefix_names: Names of the leading tokens of an image that are no patches.
        **options: ``readout``, ``grid`` and ``prefix_tokens`` for models that no family knows.

    Returns:
        The pictures.

    Raises:
        InputError: If tokenizer or processor is missing, or a batch comes without ``sample``.
        CaptureError: If the model's attention cannot be read.
    """
    read = read_attention(
        model,
        text_or_image,
        tokenizer=tokenizer,
        processor=processor,
        sample=sample,
        prefix_names=prefix_names,
        options=options,
    )
    return AttentionFigures(read)


def _rollout_edges(attention: Tensor, target: int, residual: float) -> tuple[Tensor, Tensor]:
    """The share of the target that passes along each edge, and that each input token has."""
    held = torch.zeros(attention.shape[-1], dtype=attention.dtype)
    held[target] = 1.0
    edges = []
    for layer in reversed(attention):
        edges.append(held[:, None] * mix_residual(layer, residual))
        held = edges[-1].sum(0)
    return torch.stack(edges[::-1]), held


def _single(readout: Tensor) -> int | None:
    """The one token that is read; ``None`` if there are several."""
    return int(readout.argmax()) if int((readout != 0).sum()) == 1 else None


def _checked(number: int, count: int, what: str) -> int:
    if not -count <= number < count:
        raise InputError(f"{what} must be one of the {count} from 0 to {count - 1}, not {number}.")
    return number % count
