"""``explain``: from a model and a text or an image to an explanation that shows itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError, TargetError
from attrib_plugin.methods import GradientRollout
from attrib_plugin.methods.base import AttentionAttribution, unwrap_output
from attrib_plugin.postprocessing import encode_text, group_words, merge_words
from attrib_plugin.runner.explanation import Explanation, Prediction
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
    if isinstance(text_or_image, str) and not _names_image(text_or_image, processor):
        inputs, keywords, shown = _text_input(text_or_image, tokenizer)
    else:
        inputs, keywords, shown = _image_input(text_or_image, processor, _dtype_of(model))
    scores = _scores(model, inputs, keywords)
    names = _class_names(model, labels, len(scores))
    predictions = _predictions(scores, names, _is_multilabel(model, multilabel))
    wanted = predictions[0] if target is None else _class(target, predictions)
    opponent = None if against is None else _class(against, predictions)
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
        tone=_tone(attribution),
        seconds=seconds,
        versions=library_versions(),
        **shown,
    )


def _tone(attribution: AttentionAttribution) -> Tone:
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


def _names_image(text: str, processor: Any) -> bool:
    return processor is not None and Path(text).is_file()


def _text_input(text: str, tokenizer: Any) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    if tokenizer is None:
        raise InputError("A text needs its model's tokenizer: explain(model, text, tokenizer=tokenizer).")
    ids, tokens, keywords = encode_text(tokenizer, text)
    words = group_words(text, tokens)
    return ids, keywords, {"text": text, "tokens": tuple(tokens), "words": tuple(words)}


def _image_input(image: Any, processor: Any, dtype: torch.dtype) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    if isinstance(image, Tensor):
        tensor = image
    elif processor is None:
        raise InputError(
            "An image needs its model's processor or transform: explain(model, image, processor=transform)."
        )
    else:
        tensor = _processed(image, processor)
    tensor = tensor if tensor.dim() == 4 else tensor[None]
    if tensor.dim() != 4 or len(tensor) != 1:
        raise InputError(f"Expected one image (C, H, W) after processing, found {tuple(tensor.shape)}.")
    return tensor.to(dtype), {}, {"pixels": _pixels(tensor[0], *_normalisation(processor))}


def _processed(image: Any, processor: Any) -> Tensor:
    from PIL import Image

    if isinstance(image, (str, Path)):
        try:
            with Image.open(image) as opened:
                image = opened.convert("RGB") if opened.mode not in ("L", "RGB") else opened.copy()
        except (OSError, ValueError) as error:
            raise InputError(f"{Path(image).name!r} is no image that can be read: {error}.") from error
    if hasattr(processor, "image_mean"):
        processed: Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
    else:
        processed = processor(image)
    if not isinstance(processed, Tensor):
        raise InputError(f"Expected the processor to return a tensor (C, H, W), found {type(processed).__name__}.")
    return processed


def _normalisation(processor: Any) -> tuple[Any, Any]:
    """Mean and standard deviation that the processor has applied, if it says so."""
    steps = [processor, *getattr(processor, "transforms", ())]
    for step in steps:
        for mean, std in (("image_mean", "image_std"), ("mean", "std")):
            if hasattr(step, mean) and hasattr(step, std):
                return getattr(step, mean), getattr(step, std)
    return 0.0, 1.0


def _pixels(tensor: Tensor, mean: Any, std: Any) -> np.ndarray[Any, Any]:
    """What the model saw, between 0 and 1, always in three channels."""
    mean, std = (torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1) for value in (mean, std))
    pixels = tensor.float() * std + mean
    if pixels.min() < -0.01 or pixels.max() > 1.01:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    array: np.ndarray[Any, Any] = pixels.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return array


def _dtype_of(model: nn.Module) -> torch.dtype:
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, torch.float32)


def _scores(model: nn.Module, inputs: Tensor, keywords: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        output = unwrap_output(model(inputs, **keywords))
    if output.numel() != output.shape[-1]:
        raise InputError(
            f"explain() needs one row of class scores for one input, found {tuple(output.shape)}. For other outputs "
            "call the method's attribute() with a target."
        )
    return output.reshape(-1).float().cpu()


def _class_names(model: nn.Module, labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    known = getattr(getattr(model, "config", None), "id2label", None)
    names = tuple(labels) if labels is not None else tuple(known.values()) if known else tuple(map(str, range(count)))
    if len(names) != count:
        raise InputError(f"Expected {count} labels, one for each class, found {len(names)}.")
    return names


def _is_multilabel(model: nn.Module, multilabel: bool | None) -> bool:
    if multilabel is not None:
        return multilabel
    return getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification"


def _predictions(scores: Tensor, names: Sequence[str], multilabel: bool) -> tuple[Prediction, ...]:
    if len(scores) == 1 and not multilabel:
        return (Prediction(0, names[0], float(scores)),)
    probabilities = scores.sigmoid() if multilabel else scores.softmax(0)
    order = probabilities.argsort(descending=True).tolist()
    return tuple(Prediction(index, names[index], float(probabilities[index])) for index in order)


def _class(wanted: int | str, predictions: Sequence[Prediction]) -> Prediction:
    for prediction in predictions:
        if wanted in (prediction.index, prediction.label):
            return prediction
    known = ", ".join(f"{one.index} ({one.label})" for one in sorted(predictions, key=lambda one: one.index)[:20])
    raise TargetError(f"There is no class {wanted!r}. The model's classes: {known}.")


def _target_options(
    attribution: AttentionAttribution, scores: Tensor, wanted: Prediction, opponent: Prediction | None
) -> dict[str, Any]:
    if not attribution.needs_gradients or len(scores) == 1:
        return {}
    return {"target": wanted.index, "against": None if opponent is None else opponent.index}
