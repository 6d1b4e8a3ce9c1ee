"""Models by name: the bundled ones, the photo model, or any transformers classifier in a folder or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from attrib_plugin.app.bundled import BundledModel, load, names
from attrib_plugin.errors import InputError, MissingDependencyError


def load_model(name: str, modality: Literal["text", "image"]) -> BundledModel:
    """Load a model for the command line.

    Args:
        name: A bundled model, ``"photo"``, or what transformers' ``from_pretrained`` takes.
        modality: What the model has to read.

    Returns:
        The model with its tokenizer or transform and its labels.

    Raises:
        InputError: If there is no such model, or it reads something else.
        MissingDependencyError: If a library is missing.
    """
    if name in names():
        model = load(name)  # type: ignore[arg-type]  # names() are the literals
    elif name == "photo":
        from attrib_plugin.app.photo import load_photo_model

        model = load_photo_model()
    else:
        model = _from_transformers(name, modality)
    if model.modality != modality:
        raise InputError(f"The model {name!r} reads {model.modality}, not {modality}.")
    return model


def _from_transformers(name: str, modality: Literal["text", "image"]) -> BundledModel:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("transformers", "text") from error
    task = "AutoModelForSequenceClassification" if modality == "text" else "AutoModelForImageClassification"
    reader = "AutoTokenizer" if modality == "text" else "AutoImageProcessor"
    try:
        model = getattr(transformers, task).from_pretrained(name).eval()
        processor: Any = getattr(transformers, reader).from_pretrained(name)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name!r} is neither a bundled model ({', '.join(names())}, photo) nor an {modality} classifier that "
            f"transformers can load: {first_line}"
        ) from error
    return BundledModel(
        name=Path(name).name,
        model=model,
        labels=tuple(model.config.id2label.values()),
        modality=modality,
        tokenizer=processor if modality == "text" else None,
        transform=processor if modality == "image" else None,
        multilabel=model.config.problem_type == "multi_label_classification",
        examples=(),
    )
