"""``explain``: from a model and a text or an image to an explanation that shows itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor, nn

from attrib_plugin.methods import GradientRollout
from attrib_plugin.methods.base import AttentionAttribution
from attrib_plugin.postprocessing import merge_words
from attrib_plugin.runner.explanation import Explanation, Prediction
from attrib_plugin.runner.reading import (
    class_names,
    class_scores,
    dtype_of,
    find_class,
    is_multilabel,
    names_image,
    ranked_predictions,
    read_image,
    read_text,
)
from attrib_plugin.visualization import Tone


def explain(
    model: nn.Module,
    text_or_image: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    method: Callable[..., AttentionAttribution] = GradientRollout,
    target: int | str | None = None,
    against: int | str | None = None,
    labels: Sequence[str] | None = None,
    multilabel: bool | None = None,
    **options: Any,
) -> Explanation:
    """Explain one prediction.

    Cost: one forward pass for the prediction, and what the method costs.

    Args:
        model: The model, unmodified.
        text_or_image: A text; or an image as a PIL image, a file, or a tensor (C,H,W) that is ready for the model.
        tokenizer: For a text: a fast transformers tokenizer or a ``sentencepiece.SentencePieceProcessor``.
        processor: For an image: a transformers image processor, or any function from a PIL image to a tensor.
        method: A method's class, or a function that makes one from the model.
        target: Class by index or by name; ``None`` is the predicted class.
        against: Class to contrast the target with, by index or by name.
        labels: Names of the classes; ``None`` takes those of the model's configuration, else numbers.
        multilabel: Whether each class has a probability of its own; ``None`` asks the model's configuration.
        **options: Options of the method, such as ``sign="signed"``.

    Returns:
        The explanation.

    Raises:
        InputError: If the text is empty, or tokenizer or processor is missing or of no use.
        TargetError: If there is no such class.
    """
    attribution = method(model, **options)
    if isinstance(text_or_image, str) and not names_image(text_or_image, processor):
        inputs, keywords, shown = read_text(text_or_image, tokenizer)
    else:
        inputs, keywords, shown = read_image(text_or_image, processor, dtype_of(model))
    scores = class_scores(model, inputs, keywords)
    names = class_names(model, labels, len(scores))
    predictions = ranked_predictions(scores, names, is_multilabel(model, multilabel))
    wanted = predictions[0] if target is None else find_class(target, predictions)
    opponent = None if against is None else find_class(against, predictions)
    start = time.perf_counter()
    relevance = attribution.attribute(
        inputs,
        forward_kwargs=keywords,
        return_input_shape=False,
        **_target_options(attribution, scores, wanted, opponent),
    )
    seconds = time.perf_counter() - start
    relevance = relevance.reshape(relevance.shape[1:] if relevance.dim() == 2 else relevance.shape[2:]).float().cpu()
    if "words" in shown:
        shown["word_relevance"] = merge_words(relevance, shown["words"])
    return Explanation(
        method=attribution.get_name(),
        settings=dict(options),
        target=wanted,
        against=opponent,
        predictions=predictions,
        relevance=relevance,
        tone=tone_of(attribution),
        seconds=seconds,
        versions=library_versions(),
        **shown,
    )


def tone_of(attribution: AttentionAttribution) -> Tone:
    """What the values of a method's maps mean.

    Args:
        attribution: The method.

    Returns:
        Evidence for, against, both, or a share of attention.
    """
    if not attribution.needs_gradients:
        return "share"
    tones: dict[str, Tone] = {"positive": "for", "negative": "against", "signed": "signed"}
    return tones[getattr(attribution, "sign", "positive")]


def library_versions() -> dict[str, str]:
    """Versions of this package and the libraries that results depend on.

    Returns:
        Version by distribution name; libraries that are not installed are left out.
    """
    found = {}
    for name in ("attrib-plugin", "torch", "captum", "transformers", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _target_options(
    attribution: AttentionAttribution, scores: Tensor, wanted: Prediction, opponent: Prediction | None
) -> dict[str, Any]:
    if not attribution.needs_gradients or len(scores) == 1:
        return {}
    return {"target": wanted.index, "against": None if opponent is None else opponent.index}
