"""Weights from a file of the user's, read without running code that the file may carry."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError, MissingDependencyError

# Under which key training scripts put the weights.
_INSIDE = ("state_dict", "model_state_dict", "model_ema", "model")
# What wrappers put before the names.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MOST_NAMES = 3


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights in a file.

    Args:
        path: A ``.safetensors`` file, or one of ``torch.save``, which is read with ``weights_only=True``.

    Returns:
        Weights by name, without what wrappers put before all names.

    Raises:
        InputError: If there is no such file or it holds no weights.
        MissingDependencyError: If safetensors is needed and not installed.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {str(path)!r}.")
    found = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for key in _INSIDE:
        if isinstance(found.get(key), Mapping):
            found = found[key]
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"The checkpoint {path.name!r} holds no weights by name.")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a model, all of them.

    Args:
        model: The model.
        weights: Its weights by name.
        path: Where they come from, for the message.

    Raises:
        InputError: If they do not fit.
    """
    wanted = model.state_dict()
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    misshapen = [name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape]
    # Counters and tables that are computed anew are no weights.
    missing = [name for name in missing if name in dict(model.named_parameters())]
    if missing or unexpected or misshapen:
        parts = {"missing": missing, "unknown": unexpected, "of another shape": misshapen}
        said = "; ".join(f"{len(names)} {what} ({_few(names)})" for what, names in parts.items() if names)
        raise InputError(f"The weights in {path.name!r} do not fit {type(model).__name__}: {said}.")
    model.load_state_dict(dict(weights), strict=False)


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError("safetensors", "image") from error
    try:
        weights: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"The checkpoint {path.name!r} cannot be read: {error}.") from error
    return weights


def _pickled(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"The checkpoint {path.name!r} is no file of plain weights. Files that would have to run code are not "
            "read: save model.state_dict(), best as safetensors."
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"The checkpoint {path.name!r} holds {type(found).__name__} and no weights by name.")
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
