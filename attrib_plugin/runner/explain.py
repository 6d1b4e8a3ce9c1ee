"""``explain``: from a model and a text or an image to an explanation that shows itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from attrib_plugin.methods import GradientRollout
from attrib_plugin.methods.base import AttentionAttribution
from attrib_plugin.runner.explain_many import explain_many, library_versions, tone_of
from attrib_plugin.runner.explanation import Explanation

__all__ = ["explain", "library_versions", "tone_of"]


def explain(
    model: nn.Module,
    text_or_image: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    method: Callable[..., AttentionAttribution] = GradientRollout,
    preset: str | None = None,
    target: int | str | None = None,
    against: int | str | None = None,
    end_layer: int | None = None,
    labels: Sequence[str] | None = None,
    multilabel: bool | None = None,
    **options: Any,
) -> Explanation:
    """Explain one prediction.

    Cost: one forward pass for the prediction, and what the method costs.

    Args:
        model: The model, unmodified; or a transformers pipeline, which brings tokenizer and processor along.
        text_or_image: A text; or an image as a PIL image, a file, or a tensor (C,H,W) that is ready for the model.
        tokenizer: For a text: a fast transformers tokenizer or a ``sentencepiece.SentencePieceProcessor``.
        processor: For an image: a transformers image processor, or any function from a PIL image to a tensor.
        method: A method's class, or a function that makes one from the model.
        preset: One of the method's presets, if ``method`` is a class; ``options`` win over it.
        target: Class by index or by name; ``None`` is the predicted class.
        against: Class to contrast the target with, by index or by name.
        end_layer: Follow only so many layers, counted from the input, as if the model ended there; ``None`` follows
            all. Together with ``start_layer`` of a rollout it makes a range.
        labels: Names of the classes; ``None`` takes those of the model's configuration, else numbers.
        multilabel: Whether each class has a probability of its own; ``None`` asks the model's configuration.
        **options: Options of the method, such as ``sign="signed"``.

    Returns:
        The explanation.

    Raises:
        InputError: If the text is empty or too long, tokenizer or processor is missing or of no use, or there is no
            such preset or layer.
        TargetError: If there is no such class.
    """
    found = explain_many(
        model,
        [text_or_image],
        tokenizer=tokenizer,
        processor=processor,
        method=method,
        preset=preset,
        target=target,
        against=against,
        end_layer=end_layer,
        labels=labels,
        multilabel=multilabel,
        **options,
    )
    return next(found)
