"""The nouns that travel between the rooms: one attention call, one forward pass, the meaning of its tokens.

Axes: ``batch head query key dim token``. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class TokenMerging:
    """How tokens were made from several tokens each, as in the patch merging of Swin.

    Attributes:
        sources: The tokens below that make up a token; -1 where it has fewer than others.
        shares: Share of each of them; every row sums to one.
        n_below: Number of tokens below.
    """

    sources: Int[Tensor, "token part"]
    shares: Float[Tensor, "token part"]
    n_below: int


@dataclass(frozen=True, eq=False)
class TokenPlacement:
    """Where the tokens of an attention call are among the tokens of a sample, for models with windows or stages.

    Attributes:
        windows: The token in each slot of each window of a sample; -1 where the model padded. Every token is in
            exactly one slot.
        n_tokens: Tokens of a sample at this call.
        input_grid: Rows and columns of the patches that the first tokens are.
        mergings: What happened since the call before (since the patches, for the first), in order.
    """

    windows: Int[Tensor, "window slot"]
    n_tokens: int
    input_grid: tuple[int, int]
    mergings: tuple[TokenMerging, ...] = ()

    @property
    def n_below(self) -> int:
        """Tokens of a sample after the call before, or patches of the image."""
        return self.mergings[0].n_below if self.mergings else self.n_tokens


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One attention call as the model made it.

    Fused attention is recorded by its ingredients (``query``, ``key``, ``value``, ``mask``,
    ``is_causal``, ``scale``), because its probabilities never exist. Eager attention is recorded by
    its probabilities (``weights``) and by the product that uses them.

    Attributes:
        index: Position in the forward pass, from 0.
        name: Dotted name of the innermost module that made the call; empty outside of any module.
        kind: ``"self"``, ``"causal"`` (self-attention that looks back only), ``"cross"`` or ``"pool"``.
        output: What the call returned, the node at which gradients are taken.
        query: Queries of a fused call.
        key: Keys of a fused call; may have fewer heads than ``query`` (grouped queries).
        value: Values of the call; ``None`` for an eager call whose product is not ``weights @ value``.
        mask: Boolean (True = attend) or additive mask of a fused call, broadcastable to
            ``batch head query key``.
        is_causal: Whether query i attends to keys 0..i only (top-left aligned).
        scale: Factor on query·key; ``None`` is 1/sqrt(dim).
        weights: Probabilities of an eager call, ``batch head query key`` or ``batch*head query key``.
        product: Maps ``weights`` to ``output``, where that is not ``weights @ value``.
        batch_size: Number of samples in the forward pass; of windows in all samples, where ``placement`` says which.
        in_training: Whether the model was in training mode, where dropout may thin probabilities.
        placement: Where the tokens are, for families of windowed models; ``None`` for attention over all tokens.
    """

    index: int
    name: str
    kind: str
    output: Tensor
    query: Float[Tensor, "batch head query dim"] | None = None
    key: Float[Tensor, "batch key_head key dim"] | None = None
    value: Float[Tensor, "batch key_head key value_dim"] | None = None
    mask: Tensor | None = None
    is_causal: bool = False
    scale: float | None = None
    weights: Tensor | None = None
    product: Callable[[Tensor], Tensor] | None = None
    batch_size: int = 1
    in_training: bool = False
    placement: TokenPlacement | None = None


@dataclass(frozen=True)
class Readout:
    """Which tokens the head of a model reads, as shares.

    Attributes:
        prefix: Share of each prefix token (class token, distillation token), in order.
        rest: Share spread evenly over all other tokens that are not padding.
        last: Share of the last token that is not padding.
        every: Share spread evenly over all tokens that are not padding, prefix tokens too.
        pool: Share given out as the model's attention pooling does, by its probabilities averaged over heads.
    """

    prefix: tuple[float, ...] = ()
    rest: float = 0.0
    last: float = 0.0
    every: float = 0.0
    pool: float = 0.0


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """What the tokens of one forward pass mean.

    Attributes:
        readout: Weight of every token in what the head reads; a 1 at the class token, or 1/N each for
            mean pooling. Non-negative.
        prefix_tokens: How many leading tokens are not part of the image; 0 for text.
        grid: Rows and columns of image patches; ``None`` for text.
        padding: True at tokens that no query may attend to; ``None`` when every token is real.
        family: Name of the recognised model family, for messages.
        patch_size: Height and width of a patch in pixels, the first at the top left; ``None`` for text, and for
            images whose grid is spread evenly.
    """

    readout: Float[Tensor, "batch token"]
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None
    padding: Bool[Tensor, "batch token"] | None = None
    family: str = "unknown"
    patch_size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class TokenActivation:
    """Activations of one layer, with the gradient of the explained score.

    Attributes:
        values: What the layer gave; layers of tokens give ``batch token dim``.
        gradient: Gradient of the score with respect to them, of the same shape.
    """

    values: Tensor
    gradient: Tensor


@dataclass(frozen=True, eq=False)
class PropagatedRelevance:
    """Relevance of the explained score at places of a forward pass, by the rules of a composite.

    Attributes:
        shares: Relevance of each call's output divided by that output, in the order of the calls: what the product of
            probabilities and values hands down.
        inputs: Relevance of the input: of pixels, or of token embeddings ``batch token dim``; ``None`` if not asked.
        blocks: Relevance of every token before the first block and after each block, ``batch token``; empty if not
            asked.
    """

    shares: tuple[Tensor, ...] = ()
    inputs: Tensor | None = None
    blocks: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class AttentionTrace:
    """All token-to-token attention calls of one forward pass, with what their tokens mean.

    Attributes:
        calls: Calls from the input upwards.
        layout: Meaning of the tokens.
        output_gradients: Gradient of the explained score with respect to each call's output, in the
            order of ``calls``; ``None`` for methods that need no gradients.
        activation: Activations of one layer, for methods that weigh those in place of attention.
        relevance: What relevance propagation gave, for methods that have rules.
        parts: The same calls sorted by part, where a model has several sequences of tokens, such as ``"encoder"``,
            ``"decoder"`` and ``"cross"``; ``layout`` is then that of the explained input.
        max_chunk_bytes: Largest block of attention that a method may form at a time, in bytes; ``None`` for its own
            choice.
    """

    calls: tuple[AttentionCall, ...]
    layout: TokenLayout
    output_gradients: tuple[Tensor, ...] | None = None
    activation: TokenActivation | None = None
    relevance: PropagatedRelevance | None = None
    parts: Mapping[str, AttentionTrace] = field(default_factory=dict)
    max_chunk_bytes: int | None = None


@dataclass(frozen=True)
class Preset:
    """Constructor options that reproduce a published implementation.

    Attributes:
        options: Constructor arguments.
        paper: The paper, short.
        repository: Name of the reference implementation.
        note: What is peculiar about it.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""
    repository: str = ""
    note: str = ""
