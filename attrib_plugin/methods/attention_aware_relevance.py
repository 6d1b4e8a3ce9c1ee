"""AttnLRP: relevance to the input with rules made for attention, norms and gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from attrib_plugin.functional.weighted_rollout import Sign
from attrib_plugin.methods.base import Destination, InputRelevance
from attrib_plugin.propagation import Composite
from attrib_plugin.records import Preset

_LXT = "rachtibat/LRP-eXplains-Transformers"


class AttentionAwareRelevance(InputRelevance):
    """How much of the explained score each pixel or token carries, by input times gradient with attention-aware rules.

    Depends on the target. Fused attention stays on and no attention matrix is formed: the rules only change factors of
    the backward pass.

    Formula: relevance starts at the value of the score. Linear layers and residual sums share it by contributions
    (ε-rule with ε = 0), the two products of attention give a half to either operand, softmax is followed by its
    derivative, norms have a fixed scale, activations pass it on, gates give a half to either factor. The result is
    input times this modified gradient.

    Units: the score's. Sign: positive raises the score, negative lowers it. Biases, the mean of a norm, positions and
    the softmax keep their share, so the sum is not the score; ``print(method.conservation(...))`` says who keeps what.

    For images return values are per pixel and channel; with ``return_input_shape=False`` they are added up per patch.
    For token ids they are sums over the embedding, for embeddings one value a dimension. ``matrix``,
    ``layer_attention`` and ``layer_rows`` do not exist for this method; ``layer_relevance`` gives tokens between
    blocks.

    Cost: one forward pass and one backward pass to the input. Memory: activations of the forward pass.

    Args:
        forward_func: As in :class:`AttentionAttribution`, with ``model``, ``readout``, ``grid``, ``prefix_tokens``.
        composite: ``"attnlrp"``; ``"attnlrp_gamma"`` for vision transformers, whose ε-rule relevance is noisy;
            ``"cplrp"`` (attention held constant); ``"reslrp"`` (residual sums bounded); or a
            :class:`~attrib_plugin.propagation.Composite`.
        sign: ``"signed"``, or ``"positive"`` or ``"negative"`` for one side of the map as at least 0.
        destination: ``"input"``, or ``"first_block"`` for the tokens that enter the first block.
        **options: ``model``, ``readout``, ``grid``, ``prefix_tokens``, ``special`` and ``divide_by``.

    Raises:
        ValueError: If an option is unknown.
        InputError: If there is no such composite.
        UnsupportedOperationError: If relevance reaches an operation without a rule (when the model is run).

    Reference:
        Achtibat et al. 2024, arXiv:2402.05602; Ali et al. 2022, arXiv:2202.07304 for ``"cplrp"``.
    """

    presets: ClassVar[Mapping[str, Preset]] = {
        "lxt_attnlrp": Preset(
            options={"composite": "attnlrp"},
            paper="Achtibat et al. 2024, arXiv:2402.05602",
            repository=_LXT,
            note="Its efficient implementation: gradients of queries and keys divided by 4, of values by 2.",
        ),
        "lxt_cplrp": Preset(
            options={"composite": "cplrp"},
            paper="Ali et al. 2022, arXiv:2202.07304",
            repository=_LXT,
            note="Queries and keys cut off. Its zennit gamma rules for ViT are not part of it; see attnlrp_gamma.",
        ),
    }

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        composite: str | Composite = "attnlrp",
        sign: Sign = "signed",
        destination: Destination = "input",
        **options: Any,
    ) -> None:
        super().__init__(forward_func, composite=composite, sign=sign, destination=destination, **options)
