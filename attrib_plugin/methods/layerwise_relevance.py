"""Full layer-wise relevance propagation, from the score to the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from attrib_plugin.functional.weighted_rollout import Sign
from attrib_plugin.methods.base import Destination, InputRelevance
from attrib_plugin.propagation import Composite
from attrib_plugin.records import Preset

_PAPER = "Chefer, Gur and Wolf 2021a, arXiv:2012.09838"
_REPOSITORY = "hila-chefer/Transformer-Explainability"


class LayerwiseRelevance(InputRelevance):
    """How much relevance of the explained score arrives at each pixel or token: full LRP, without attention maps.

    The baseline "LRP" of Chefer et al., by the rules that :class:`TransformerAttribution` uses for attention. Weaker
    than maps of attention in all published comparisons; here for comparison, and for composites of one's own.

    Formula: relevance starts as one at the target and is shared out by the rules of the composite, for the default by
    positive contributions (the rule of alpha 1 and beta 0) with conserving residual sums, and the zᴮ rule between each
    image's lowest and highest value at the patch embedding.

    Units: shares of the score, which is one. Sign: signed, although linear layers share by positive contributions:
    residual sums and products of attention share by signed ones. The total stays near one where every rule conserves;
    positions and biases keep a part (``print(method.conservation(...))``).

    For images values are per pixel and channel; with ``return_input_shape=False`` they are added up per patch. For
    token ids they are sums over the embedding. ``matrix``, ``layer_attention`` and ``layer_rows`` do not exist for
    this method; ``layer_relevance`` gives tokens between blocks.

    Cost: one forward pass and one backward pass to the input with three products where a backward pass makes one; with
    ``against`` two of them. Memory: activations of the forward pass. Ill-conditioned in float32: signs of whole
    branches can flip.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        composite: Rules by name or as a :class:`~attrib_plugin.propagation.Composite`.
        sign: ``"signed"``, or ``"positive"`` or ``"negative"`` for one side of the map as at least 0.
        destination: ``"input"``, or ``"first_block"`` for the tokens that enter the first block.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If an option is unknown.
        InputError: If there is no such composite.
        UnsupportedOperationError: If relevance reaches an operation without a rule (when the model is run).

    Reference:
        Bach et al. 2015; Chefer, Gur and Wolf 2021a, arXiv:2012.09838, section 3.1.
    """

    presets: ClassVar[Mapping[str, Preset]] = {
        "chefer2021_vit": Preset(
            options={"composite": "chefer2021_vit"},
            paper=_PAPER,
            repository=_REPOSITORY,
            note='method="full" of its ViT. Its paper\'s LRP baseline runs composite="chefer2021_baseline_vit".',
        ),
        "chefer2021_bert": Preset(
            options={"composite": "chefer2021_bert", "destination": "first_block", "special": "zero_first"},
            paper=_PAPER,
            repository=_REPOSITORY,
            note="Ends at the tokens that enter the encoder, not at the embeddings, and sets the class token to zero. "
            'Its paper\'s LRP baseline runs composite="chefer2021_baseline_bert".',
        ),
    }

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        composite: str | Composite = "chefer2021",
        sign: Sign = "signed",
        destination: Destination = "input",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, composite=composite, sign=sign, destination=destination, **options)
