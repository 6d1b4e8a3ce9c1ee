"""Models by name: bundled ones, the photo model, timm's, or any transformers classifier in a folder or on the hub."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from attrib_plugin.app.bundled import BundledModel, load, names
from attrib_plugin.app.catalogue import modality_of, model_names
from attrib_plugin.app.checkpoints import fill, read_checkpoint
from attrib_plugin.app.hub import why_not_local, without_retries
from attrib_plugin.app.timm_models import is_timm_name, load_timm
from attrib_plugin.errors import InputError, MissingDependencyError

_DTYPES = ("float32", "float64", "bfloat16", "float16")


def load_model(
    name: str,
    modality: Literal["text", "image"],
    *,
    checkpoint: Path | None = None,
    labels: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> BundledModel:
    """Load a model for the command line.

    A name is looked up in this order: bundled models; ``timm:NAME`` and ``hf:NAME`` say the library; a folder; for
    images an architecture of timm; what transformers' ``from_pretrained`` takes. Files on this machine come first; the
    hub is asked only for what is not there.

    Args:
        name: The name.
        modality: What the model has to read.
        checkpoint: Weights for an architecture of timm or transformers.
        labels: A text file with the name of one class a line.
        device: Where to put the model, in torch's words; ``None`` is the CPU.
        dtype: Floating dtype of the weights; ``None`` leaves the model's.

    Returns:
        The model with its tokenizer or transform and its labels.

    Raises:
        InputError: If there is no such model, it reads something else, or an argument does not fit it.
        MissingDependencyError: If a library is missing.
    """
    is_bundled = name in model_names()
    if is_bundled and checkpoint is not None:
        raise InputError(f"The bundled model {name!r} has its own weights. Give --checkpoint with an architecture.")
    if is_bundled:
        bundle = load_bundled(name)
    elif modality == "image" and not name.startswith("hf:") and is_timm_name(name):
        bundle = load_timm(name, checkpoint=checkpoint)
    else:
        bundle = _from_transformers(name.removeprefix("hf:"), modality, checkpoint)
    if bundle.modality != modality:
        raise InputError(f"The model {name!r} reads {bundle.modality}, not {modality}.")
    if labels is not None:
        bundle = replace(bundle, labels=_read_labels(labels))
    return _placed(bundle, device, dtype)


def load_bundled(name: str) -> BundledModel:
    """Load a model that ships with the package.

    Args:
        name: One of :func:`~attrib_plugin.app.catalogue.model_names`.

    Returns:
        The model.

    Raises:
        InputError: If there is none of this name.
        MissingDependencyError: If a library is missing.
    """
    if name == "photo":
        from attrib_plugin.app.photo import load_photo_model

        return load_photo_model()
    if name == "russian":
        from attrib_plugin.app.russian import load_russian_model

        return load_russian_model()
    if name not in names():
        raise InputError(f"There is no bundled model {name!r}. The bundled models: {', '.join(model_names())}.")
    return load(name)  # type: ignore[arg-type]  # names() are the literals


def missing_for(name: str) -> MissingDependencyError | None:
    """What a model that ships with the package lacks; asked without loading it, which may take hundreds of megabytes.

    Args:
        name: One of :func:`~attrib_plugin.app.catalogue.model_names`.

    Returns:
        The error that loading it would raise; ``None`` if all is there.
    """
    try:
        if name == "photo":
            from attrib_plugin.app.photo import backbone_file

            backbone_file()
        elif name == "russian":
            from attrib_plugin.app.russian import encoder_file, tokenizer_file

            encoder_file(), tokenizer_file()
    except MissingDependencyError as error:
        return error
    extra = name if name in ("photo", "russian") else modality_of(name)
    needed = {"photo": ("onnx", "timm"), "digits": ("timm",), "multi-digits": ("timm",)}.get(name, ("transformers",))
    absent = [library for library in (*needed, "safetensors") if find_spec(library) is None]
    return MissingDependencyError(absent[0], extra) if absent else None


def untrained_model(name: str, modality: str | None) -> tuple[Any, Literal["text", "image"]]:
    """A classifier of transformers with random weights.

    Args:
        name: A folder with a configuration, or a name on the hub.
        modality: ``"text"`` or ``"image"``; ``None`` tries both.

    Returns:
        The model and what it reads.

    Raises:
        InputError: If there is no such classifier.
        MissingDependencyError: If transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("transformers", "text") from error
    tasks: dict[Literal["text", "image"], str] = {
        "text": "AutoModelForSequenceClassification",
        "image": "AutoModelForImageClassification",
    }
    try:
        config = _local_first(transformers.AutoConfig, name)
    except (OSError, ValueError, KeyError) as error:
        raise _no_model(name, modality or "text or image", error) from error
    for reads, task in tasks.items():
        if modality in (None, reads) and type(config) in getattr(transformers, task)._model_mapping:
            return getattr(transformers, task).from_config(config).eval(), reads
    raise InputError(f"{type(config).__name__} has no classifier of {modality or 'texts or images'} in transformers.")


def _placed(bundle: BundledModel, device: str | None, dtype: str | None) -> BundledModel:
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"Expected one of the dtypes {', '.join(_DTYPES)}, found {dtype!r}.")
    try:
        bundle.model.to(device or "cpu", None if dtype is None else getattr(torch, dtype))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(f"The model cannot be put on the device {device!r}: {first_line}") from error
    return bundle


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The labels in {str(path)!r} cannot be read: {error}.") from error


def _from_transformers(name: str, modality: Literal["text", "image"], checkpoint: Path | None) -> BundledModel:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("transformers", "text") from error
    task = "AutoModelForSequenceClassification" if modality == "text" else "AutoModelForImageClassification"
    reader = "AutoTokenizer" if modality == "text" else "AutoImageProcessor"
    try:
        model = _transformers_model(transformers, getattr(transformers, task), name, checkpoint)
        processor: Any = _local_first(getattr(transformers, reader), name)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise _no_model(name, modality, error) from error
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


def _no_model(name: str, modality: str, error: Exception) -> InputError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    libraries = "transformers" if modality == "text" else "transformers or timm"
    why = "" if Path(name).is_dir() else f" {why_not_local()}"
    return InputError(
        f"{name!r} is neither a bundled model ({', '.join(model_names())}) nor a classifier of {modality} input that "
        f"{libraries} can load: {first_line}{why}"
    )


def _transformers_model(transformers: Any, task: Any, name: str, checkpoint: Path | None) -> Any:
    if checkpoint is None:
        return _local_first(task, name).eval()
    weights = read_checkpoint(checkpoint)
    model = task.from_config(_local_first(transformers.AutoConfig, name)).eval()
    fill(model, weights, checkpoint)
    return model


def _local_first(kind: Any, name: str) -> Any:
    try:
        return kind.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        if Path(name).is_dir():
            raise
    with without_retries():
        return kind.from_pretrained(name)
