"""What there is to choose from, read from the package's files without loading torch: for help and shell completion."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parents[1]
_MODELS = _PACKAGE / "app/models"
_IMAGE_MODELS = ("digits", "multi-digits", "photo")
# Of some models only the head ships with the package; the rest comes with an extra.
_HEAD = "-head"


@dataclass(frozen=True)
class MethodEntry:
    """A method as its source describes it.

    Attributes:
        name: Name of the class.
        summary: First line of its documentation.
        is_class_specific: Whether its map depends on the class.
        presets: Names of its presets.
    """

    name: str
    summary: str
    is_class_specific: bool
    presets: tuple[str, ...]


def model_names() -> tuple[str, ...]:
    """Names of the models that ship with the package.

    Returns:
        Names that ``--model`` takes, text models first.
    """
    names = [path.parent.name.removesuffix(_HEAD) for path in _MODELS.glob("*/README.md")]
    return tuple(sorted(names, key=lambda name: (name in _IMAGE_MODELS, name != "sentiment", name)))


def modality_of(name: str) -> Literal["text", "image"]:
    """What a model that ships with the package reads.

    Args:
        name: One of :func:`model_names`.

    Returns:
        Its modality.
    """
    return "image" if name in _IMAGE_MODELS else "text"


def model_examples(name: str) -> tuple[str, ...]:
    """Inputs to try a model with; the model is not loaded.

    Args:
        name: One of :func:`model_names`.

    Returns:
        Texts, or paths of images.
    """
    folder = _MODELS / name if (_MODELS / name).is_dir() else _MODELS / f"{name}{_HEAD}"
    if modality_of(name) == "image":
        return tuple(str(path) for path in sorted((folder / "examples").iterdir()) if path.suffix != ".json")
    return tuple(one["text"] for one in json.loads((folder / "examples.json").read_text(encoding="utf-8")))


@lru_cache
def method_entries() -> tuple[MethodEntry, ...]:
    """The methods, in the order in which the package lists them.

    Returns:
        One entry a method.
    """
    files = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((_PACKAGE / "methods").rglob("*.py"))]
    classes = {node.name: node for tree in files for node in tree.body if isinstance(node, ast.ClassDef)}
    listed = ast.parse((_PACKAGE / "methods/__init__.py").read_text(encoding="utf-8"))
    names = next(ast.literal_eval(value) for name, value in _assigned(listed) if name == "__all__")
    return tuple(_entry(classes[name], classes) for name in names)


def method_names() -> tuple[str, ...]:
    """Names of the methods.

    Returns:
        Names that ``--method`` takes.
    """
    return tuple(entry.name for entry in method_entries())


def _entry(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> MethodEntry:
    presets = next((value for name, value in _assigned(node) if name == "presets"), None)
    keys = presets.keys if isinstance(presets, ast.Dict) else []
    return MethodEntry(
        name=node.name,
        summary=(ast.get_docstring(node) or "").partition("\n")[0],
        is_class_specific=_needs_gradients(node, classes),
        presets=tuple(ast.literal_eval(key) for key in keys if key is not None),
    )


def _needs_gradients(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    own = next((value for name, value in _assigned(node) if name == "needs_gradients"), None)
    if own is not None:
        return bool(ast.literal_eval(own))
    bases = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    return any(_needs_gradients(base, classes) for base in bases)


def _assigned(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Names and values that a body assigns."""
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            yield line.target.id, line.value
        elif isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            yield line.targets[0].id, line.value
