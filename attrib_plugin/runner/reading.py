"""What a user gives, a text or an image, as a model takes it; what the model returns, as classes with names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError, TargetError
from attrib_plugin.methods.base import unwrap_output
from attrib_plugin.postprocessing import encode_text, group_words
from attrib_plugin.runner.explanation import Prediction

if TYPE_CHECKING:  # Pillow comes with an extra.
    from PIL.Image import Image


def names_image(text: str, processor: Any) -> bool:
    """Whether a string is the path of an image and not a text.

    Args:
        text: The string.
        processor: The image processor, if there is one.

    Returns:
        True if there is a processor and a file of this name.
    """
    try:
        return processor is not None and Path(text).is_file()
    except OSError:  # A text may be longer than any name of a file.
        return False


def unpack_pipeline(model: Any, tokenizer: Any, processor: Any) -> tuple[nn.Module, Any, Any]:
    """The model of a transformers pipeline, with its tokenizer and image processor where none is given.

    Args:
        model: A module, or a pipeline around one.
        tokenizer: The user's tokenizer.
        processor: The user's image processor.

    Returns:
        Model, tokenizer and processor; as given, unless it was a pipeline.
    """
    inner = getattr(model, "model", None)
    if isinstance(model, nn.Module) or not isinstance(inner, nn.Module):
        return model, tokenizer, processor
    own_tokenizer, own_processor = (getattr(model, name, None) for name in ("tokenizer", "image_processor"))
    return inner, tokenizer or own_tokenizer, processor or own_processor


def read_text(text: str, tokenizer: Any, model: nn.Module) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    """A text as the model takes it.

    Args:
        text: The text.
        tokenizer: As in :func:`~attrib_plugin.runner.explain.explain`.
        model: The model, on whose device the inputs are put.

    Returns:
        Token ids (1,T), further keyword inputs of the model, and text, tokens and words for showing it.

    Raises:
        InputError: If there is no tokenizer or nothing to explain.
    """
    if tokenizer is None:
        raise InputError("A text needs its model's tokenizer: explain(model, text, tokenizer=tokenizer).")
    ids, tokens, keywords = encode_text(tokenizer, text)
    words = group_words(text, tokens)
    device = _example_parameter(model).device
    ids, keywords = ids.to(device), {name: value.to(device) for name, value in keywords.items()}
    return ids, keywords, {"text": text, "tokens": tuple(tokens), "words": tuple(words)}


def read_image(image: Any, processor: Any, model: nn.Module) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    """An image as the model takes it.

    Args:
        image: A PIL image, a file, or a tensor that is ready for the model.
        processor: As in :func:`~attrib_plugin.runner.explain.explain`.
        model: The model, whose dtype and device the pixels get.

    Returns:
        Pixels (1,C,H,W), no keyword inputs, and what the model sees, for showing it.

    Raises:
        InputError: If the image cannot be read, or there is no processor.
    """
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
    source = Path(image).name if isinstance(image, (str, Path)) else ""
    shown = {"pixels": pixels_of(tensor[0], processor), "source": source}
    return tensor.to(_example_parameter(model)), {}, shown


def open_picture(file: Any, name: str) -> Image:
    """An image from a file, as a viewer of images shows it.

    Args:
        file: Its path, or a binary file.
        name: What to call it in the message.

    Returns:
        The image, in colour or grey.

    Raises:
        InputError: If it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return as_seen(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is no image that can be read: {error}.") from error


def as_seen(image: Image) -> Image:
    """An image turned as its camera says, and on white where it is transparent.

    Args:
        image: An opened image.

    Returns:
        The image, in colour or grey.
    """
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.has_transparency_data:
        turned = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    return turned.convert("L" if turned.mode in ("1", "L") else "RGB")


def _processed(image: Any, processor: Any) -> Tensor:
    if isinstance(image, (str, Path)):
        image = open_picture(image, repr(Path(image).name))
    # Processors leave a grey image grey, and then fail to normalise it.
    if getattr(image, "mode", "RGB") == "L" and torch.as_tensor(_normalisation(processor)[0]).numel() == 3:
        image = image.convert("RGB")
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


def pixels_of(tensor: Tensor, processor: Any) -> np.ndarray[Any, Any]:
    """What the model saw of an image.

    Args:
        tensor: The image as the model takes it (C,H,W).
        processor: What made it; its normalisation is undone if it is known.

    Returns:
        (height,width,3) between 0 and 1, always in three channels.
    """
    mean, std = _normalisation(processor)
    mean, std = (torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1) for value in (mean, std))
    pixels = tensor.float().cpu() * std + mean
    if pixels.min() < -0.01 or pixels.max() > 1.01:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-12)
    array: np.ndarray[Any, Any] = pixels.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()
    return array


def _example_parameter(model: nn.Module) -> Tensor:
    """A tensor of the floating dtype and on the device of a model's first layer; float32 on the CPU if it has none."""
    floating = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, torch.empty(0))


def class_scores(model: nn.Module, inputs: Tensor, keywords: Mapping[str, Any]) -> Tensor:
    """Scores of a batch.

    Args:
        model: The model.
        inputs: The batch.
        keywords: Further keyword inputs.

    Returns:
        Scores (batch,class), float32, on the CPU.

    Raises:
        InputError: If the model does not give one row of scores an input.
    """
    with torch.no_grad():
        output = unwrap_output(model(inputs, **keywords))
    if output.numel() != len(inputs) * output.shape[-1]:
        raise InputError(
            f"explain() needs one row of class scores for one input, found {tuple(output.shape)} for {len(inputs)}. "
            "For other outputs call the method's attribute() with a target."
        )
    return output.reshape(len(inputs), -1).float().cpu()


def class_names(model: nn.Module, labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Names of the classes.

    Args:
        model: The model; its configuration may name them.
        labels: Names given by the user.
        count: How many there must be.

    Returns:
        One name a class; numbers if nobody names them.

    Raises:
        InputError: If there are not as many names as classes.
    """
    known = getattr(getattr(model, "config", None), "id2label", None)
    names = tuple(labels) if labels is not None else tuple(known.values()) if known else tuple(map(str, range(count)))
    if len(names) != count:
        raise InputError(f"Expected {count} labels, one for each class, found {len(names)}.")
    return names


def is_multilabel(model: nn.Module, multilabel: bool | None) -> bool:
    """Whether each class has a probability of its own.

    Args:
        model: The model; its configuration may say.
        multilabel: What the user says.

    Returns:
        True for a sigmoid a class, false for one softmax.
    """
    if multilabel is not None:
        return multilabel
    return getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification"


def ranked_predictions(scores: Tensor, names: Sequence[str], multilabel: bool) -> tuple[Prediction, ...]:
    """Classes with their probabilities.

    Args:
        scores: One score a class.
        names: Their names.
        multilabel: Whether each class has a probability of its own.

    Returns:
        The classes, most probable first.
    """
    if len(scores) == 1 and not multilabel:
        return (Prediction(0, names[0], float(scores)),)
    probabilities = scores.sigmoid() if multilabel else scores.softmax(0)
    order = probabilities.argsort(descending=True).tolist()
    return tuple(Prediction(index, names[index], float(probabilities[index])) for index in order)


def find_class(wanted: int | str, predictions: Sequence[Prediction]) -> Prediction:
    """A class by index or name.

    Args:
        wanted: Its index or name.
        predictions: All classes.

    Returns:
        The class.

    Raises:
        TargetError: If there is no such class.
    """
    for prediction in predictions:
        if wanted in (prediction.index, prediction.label):
            return prediction
    known = ", ".join(f"{one.index} ({one.label})" for one in sorted(predictions, key=lambda one: one.index)[:20])
    raise TargetError(f"There is no class {wanted!r}. The model's classes: {known}.")
