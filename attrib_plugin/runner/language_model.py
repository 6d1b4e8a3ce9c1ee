"""Our methods inside ``captum.attr.LLMGradientAttribution``: which tokens of a prompt a generated token rests on.

Captum asks for one map a generated token, with the log-probability of that token as the score. It hands the model the
prompt and what was generated so far, but hands the method the prompt alone; a method that reads attention has to see
all the tokens that the model sees. :class:`NextTokenAttribution` stands between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from captum.attr import Attribution, LLMGradientAttribution
from captum.log import log_usage
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.methods.base import AttentionAttribution, unwrap_output

if TYPE_CHECKING:
    from captum.attr import InterpretableInput
    from jaxtyping import Float


class NextTokenAttribution(Attribution):
    """A method of ours as :class:`captum.attr.LLMGradientAttribution` calls it.

    Args:
        method: The method, made with the language model itself. Its read-out is the last token, where the next one
            is predicted, unless it was given another.

    Raises:
        InputError: If the method was made with a function around the model.
    """

    def __init__(self, method: AttentionAttribution) -> None:
        if method.forward_func is not method.model:
            raise InputError(
                f"Expected {type(method).__name__}(model) with the language model itself, found a function around "
                f"{type(method.model).__name__}: Captum calls the model and lets it generate."
            )
        super().__init__(method.model)
        self.method = method

    @log_usage()
    def attribute(
        self, inputs: Tensor, additional_forward_args: tuple[InterpretableInput, Tensor, int], **options: Any
    ) -> Float[Tensor, "batch token 1"]:
        """Relevance of the prompt and of what was generated so far for the log-probability of the next token.

        Args:
            inputs: Which tokens of the prompt are present, as Captum passes them.
            additional_forward_args: The prompt, the ids of all generated tokens, and how many of them are given.
            **options: Further arguments of the method's ``attribute``.

        Returns:
            Relevance in the units of the method, for a score in nats; the last axis is there for Captum to sum.
        """
        prompt, generated, n_given = additional_forward_args
        prompt_ids = prompt.to_model_input(inputs)
        generated = generated.to(prompt_ids.device)
        given = generated[:n_given].expand(len(prompt_ids), -1)
        scoring = copy(self.method)
        scoring.forward_func = self._log_probability(int(generated[n_given]))
        scoring.readout = "last" if self.method.readout is None else self.method.readout
        relevance: Tensor = scoring.attribute(torch.cat([prompt_ids, given], dim=1), **options)
        return relevance[..., None]

    def _log_probability(self, token: int) -> Callable[..., Tensor]:
        def forward(ids: Tensor, **keywords: Any) -> Tensor:
            return unwrap_output(self.method.model(ids, **keywords))[:, -1].log_softmax(-1)[:, token]

        return forward


class LanguageModelAttribution(LLMGradientAttribution):
    """``captum.attr.LLMGradientAttribution`` that takes our methods besides Captum's.

    Example:
        >>> explainer = LanguageModelAttribution(GradientRollout(model), tokenizer)
        >>> result = explainer.attribute(TextTokenInput("The sky is", tokenizer), target="blue today")
        >>> result.token_attr  # one row a generated token, one column a token of the prompt

    ``seq_attr`` is the sum over generated tokens. Relevance of tokens that were generated before is computed and left
    out, as Captum does. Cost: what the method costs, once for each generated token.

    Args:
        attr_method: A method of this package made with the language model itself, or one that Captum supports.
        tokenizer: The tokenizer of the model.

    Raises:
        InputError: If a method of this package was made with a function around the model.
    """

    SUPPORTED_METHODS = (*LLMGradientAttribution.SUPPORTED_METHODS, NextTokenAttribution)

    def __init__(self, attr_method: Attribution, tokenizer: Any) -> None:
        is_ours = isinstance(attr_method, AttentionAttribution)
        super().__init__(NextTokenAttribution(attr_method) if is_ours else attr_method, tokenizer)
