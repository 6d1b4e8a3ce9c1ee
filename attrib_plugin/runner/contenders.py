"""The methods of a comparison: ours, Captum's, or any function, each with a name and a way to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import captum.attr
from captum.attr import Attribution, Saliency

from attrib_plugin import methods
from attrib_plugin.errors import InputError
from attrib_plugin.methods.base import AttentionAttribution
from attrib_plugin.runner.captum_methods import run_captum
from attrib_plugin.runner.case import Case
from attrib_plugin.runner.explain import tone_of
from attrib_plugin.visualization import Tone

Method = Any
"""A class or an object of this package or of Captum, its name, a ``functools.partial`` of a class, or a function."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One method of a comparison.

    Attributes:
        label: Its name in the table.
        source: ``"attrib_plugin"``, ``"captum"`` or ``"function"``.
        method: What the user gave, names looked up.
        options: Arguments of ``attribute`` by name.
    """

    label: str
    source: Literal["attrib_plugin", "captum", "function"]
    method: Method
    options: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, case: Case) -> tuple[Callable[[], Any], Tone | None]:
        """What is to be run, without running it.

        Args:
            case: What is explained.

        Returns:
            A function that returns the map in any shape, and what the map's values mean; ``None`` if only the map
            itself can tell.
        """
        if self.source == "attrib_plugin":
            return self._ours(case)
        if self.source == "captum":
            kind = self.method if isinstance(self.method, type) else type(self.method)
            sizes_only = issubclass(kind, Saliency) and self.options.get("abs", True)
            return partial(run_captum, self.method, case, self.options), "size" if sizes_only else "signed"
        target = case.target
        return lambda: self.method(case.inputs, target=target, **self.options), None

    def _ours(self, case: Case) -> tuple[Callable[[], Any], Tone]:
        is_object = isinstance(self.method, AttentionAttribution)
        given = {name: value for name, value in case.options.items() if value is not None}
        attribution = self.method if is_object else self.method(case.model, **given)
        arguments: dict[str, Any] = {"forward_kwargs": case.keywords, "return_input_shape": False, **self.options}
        if attribution.needs_gradients and case.target is not None:
            arguments.setdefault("target", case.target)
        return partial(attribution.attribute, case.inputs, **arguments), tone_of(attribution)


def find_contenders(
    wanted: Sequence[Method] | Mapping[str, Method], options: Mapping[str, Mapping[str, Any]]
) -> list[Contender]:
    """The methods of a comparison, by whatever the user named them.

    Args:
        wanted: Methods, or methods by label.
        options: Arguments of ``attribute`` by label.

    Returns:
        One contender a method, in order, with different labels.

    Raises:
        InputError: If there is no method, no method of a name, or options for a label that does not exist.
    """
    pairs = list(wanted.items()) if isinstance(wanted, Mapping) else [(None, method) for method in wanted]
    if not pairs:
        raise InputError("Expected at least one method to compare, found none.")
    found: dict[str, Contender] = {}
    for label, given in pairs:
        method = _by_name(given) if isinstance(given, str) else given
        source = _source(method)
        name = _label(method, given) if label is None else label
        number = sum(one == name or one.startswith(f"{name} #") for one in found)
        name = f"{name} #{number + 1}" if number else name
        found[name] = Contender(name, source, method, options.get(name, {}))
    if unknown := set(options) - set(found):
        raise InputError(f"options name {sorted(unknown)}, which are none of the methods {list(found)}.")
    return list(found.values())


def _by_name(name: str) -> Method:
    base, _, preset = name.partition(":")
    if base in methods.__all__:
        method = getattr(methods, base)
        if preset and preset not in method.presets:
            raise InputError(f"{base} has no preset {preset!r}. Its presets: {', '.join(method.presets) or 'none'}.")
        return partial(method.from_preset, preset) if preset else method
    if (found := getattr(captum.attr, base, None)) is not None and not preset and _is(found, Attribution):
        return found
    raise InputError(
        f"There is no method {name!r}. Give one of this package ({', '.join(methods.__all__)}), 'Method:preset', or a "
        "class of captum.attr, such as 'IntegratedGradients'."
    )


def _source(method: Method) -> Literal["attrib_plugin", "captum", "function"]:
    inner = _unwrapped(method)
    kind = inner if isinstance(inner, type) else type(inner)
    if issubclass(kind, AttentionAttribution):
        return "attrib_plugin"
    if issubclass(kind, Attribution) and not isinstance(method, partial):
        return "captum"
    if isinstance(inner, type) or not callable(method):
        raise InputError(
            f"Expected a method of this package or of Captum, its name, or a function (inputs, target=...), "
            f"found {inner!r}."
        )
    return "function"


def _unwrapped(method: Method) -> Any:
    """The class behind ``partial(Class, ...)`` or ``partial(Class.from_preset, ...)``; else what was given."""
    if not isinstance(method, partial):
        return method
    owner = getattr(method.func, "__self__", None)
    return owner if isinstance(owner, type) else method.func


def _label(method: Method, given: Method) -> str:
    if isinstance(given, str):
        return given
    inner = _unwrapped(method)
    if isinstance(method, partial) and isinstance(inner, type):
        settings = [repr(value) for value in method.args]
        settings += [f"{name}={value!r}" for name, value in method.keywords.items()]
        return f"{inner.__name__}({', '.join(settings)})"
    if isinstance(inner, (type, Attribution)):
        return (inner if isinstance(inner, type) else type(inner)).__name__
    return str(getattr(inner, "__name__", type(inner).__name__))


def _is(found: object, kind: type) -> bool:
    return isinstance(found, type) and issubclass(found, kind)
