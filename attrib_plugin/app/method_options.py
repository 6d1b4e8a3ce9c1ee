"""Options of a method as a user types them, checked against what the method takes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from attrib_plugin.app.catalogue import method_names
from attrib_plugin.errors import InputError

# They come from the command's own options, or cannot be typed.
_NOT_TYPED = ("self", "forward_func", "model", "options")


@dataclass(frozen=True)
class ChosenMethod:
    """A method with everything that was typed about it.

    Attributes:
        method: Its class.
        preset: Name of a preset.
        options: Arguments of the constructor.
        end_layer: How many layers are followed; ``None`` is all.
    """

    method: Callable[..., Any]
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    end_layer: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What :func:`~attrib_plugin.runner.explain.explain` takes."""
        return {"method": self.method, "preset": self.preset, "end_layer": self.end_layer, **self.options}


def choose_method(
    name: str,
    *,
    preset: str | None = None,
    typed: Sequence[str] = (),
    layers: str | None = None,
    readout: str | None = None,
    grid: str | None = None,
    **others: Any,
) -> ChosenMethod:
    """Look a method up, and read what was typed about it.

    Args:
        name: Name of the method, or ``METHOD:PRESET``.
        preset: Name of a preset.
        typed: ``NAME=VALUE`` for constructor arguments.
        layers: ``START:END``, counted from 0 without END, or the number of one layer.
        readout: ``cls``, ``mean``, ``last`` or a position.
        grid: ``ROWSxCOLUMNS``.
        **others: Further constructor arguments; ``None`` leaves one out.

    Returns:
        The method.

    Raises:
        InputError: If there is no such method or option, or a value cannot be read.
    """
    import attrib_plugin.methods as available

    name, _, after = name.partition(":")
    if name not in method_names():
        raise InputError(f"There is no method {name!r}. The methods: {', '.join(method_names())}.")
    method = getattr(available, name)
    options = {key: value for key, value in others.items() if value is not None}
    if readout is not None:
        options["readout"] = parse_readout(readout)
    if grid is not None:
        options["grid"] = parse_grid(grid)
    options |= dict(parse_option(one) for one in typed)
    taken = options_of(method)
    end_layer = _read_layers(layers, name, taken, options) if layers is not None else None
    if unknown := [key for key in options if key not in taken]:
        raise InputError(f"{name} has no option {unknown[0]!r}. Its options: {', '.join(sorted(taken))}.")
    return ChosenMethod(method, preset or after or None, options, end_layer)


def options_of(method: type) -> dict[str, inspect.Parameter]:
    """The options of a method's constructor, its bases' included.

    Args:
        method: Its class.

    Returns:
        Parameters by name.
    """
    found: dict[str, inspect.Parameter] = {}
    for cls in method.__mro__:
        if "__init__" in cls.__dict__ and cls.__module__.startswith("attrib_plugin."):
            for parameter in inspect.signature(cls.__dict__["__init__"]).parameters.values():
                if parameter.name not in _NOT_TYPED:
                    found.setdefault(parameter.name, parameter)
    return found


def parse_option(typed: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; nothing is evaluated.

    Args:
        typed: A name, and a number, ``true``, ``false``, ``none``, a tuple or list of these, or a word.

    Returns:
        Name and value.

    Raises:
        InputError: If there is no ``=``.
    """
    name, equals, value = typed.partition("=")
    if not (equals and name.strip().isidentifier()):
        raise InputError(f"Expected NAME=VALUE for an option of the method, found {typed!r}.")
    words = {"true": True, "false": False, "none": None}
    if value.strip().lower() in words:
        return name.strip(), words[value.strip().lower()]
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name.strip(), value.strip()


def parse_readout(typed: str) -> int | str:
    """Read what the head reads.

    Args:
        typed: ``cls``, ``mean``, ``last`` or a position.

    Returns:
        The word, or the position.
    """
    return int(typed) if re.fullmatch(r"\d+", typed) else typed


def parse_grid(typed: str) -> tuple[int, int]:
    """Read ``ROWSxCOLUMNS``.

    Args:
        typed: Such as ``14x14``.

    Returns:
        Rows and columns.

    Raises:
        InputError: If it is none.
    """
    if not (found := re.fullmatch(r"([1-9]\d*)[x,]([1-9]\d*)", typed)):
        raise InputError(f"Expected rows and columns of patches such as 14x14, found {typed!r}.")
    return int(found[1]), int(found[2])


def _read_layers(typed: str, name: str, taken: dict[str, Any], options: dict[str, Any]) -> int | None:
    """Put the first layer, or the only one, among the options; return the end."""
    if not (found := re.fullmatch(r"(-?\d+)|(\d*):(\d*)", typed)):
        raise InputError(f"Expected a layer such as 3, or a range START:END such as 2:6, found {typed!r}.")
    if found[1] is not None:
        if "layer" not in taken:
            raise InputError(f"{name} looks at all layers, not at one: give a range START:END.")
        options["layer"] = int(found[1])
        return None
    if found[2] and int(found[2]):
        if "start_layer" not in taken:
            raise InputError(f"{name} starts at the first layer: give :END, or a method with the option start_layer.")
        options["start_layer"] = int(found[2])
    if found[3] and int(found[3]) <= int(found[2] or 0):
        raise InputError(f"Expected a range START:END of at least one layer, found {typed!r}.")
    return int(found[3]) if found[3] else None
