"""What a family table holds: facts about tokens, looked up from a module, without any forward code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from attrib_plugin.records import Readout

CLS = Readout(prefix=(1.0,))
MEAN = Readout(rest=1.0)
LAST = Readout(last=1.0)


def _no_limit(module: Any) -> None:
    return None


def _no_prefix(module: Any) -> int:
    return 0


def _unknown_readout(module: Any) -> Readout | None:
    return None


def _unknown_size(module: Any) -> tuple[int, int] | None:
    return None


@dataclass(frozen=True)
class Family:
    """A model family: how its modules are recognised and what its tokens mean.

    Attributes:
        name: Short name, as in messages.
        modality: ``"text"``, ``"image"``, or ``"any"`` for building blocks.
        classes: Qualified names of classes that belong to the family; subclasses belong too.
        readouts: What each class with a head reads, by class name without module.
        readout: Read-out of a module whose head is a matter of configuration; asked before ``readouts``.
        prefix_tokens: How many leading tokens are no patches.
        patch_grid: Rows and columns of patches of an image of the given height and width.
        image_size: The only height and width that the module takes; ``None`` if it takes any.
        max_tokens: Longest text in tokens; ``None`` if unknown.
    """

    name: str
    modality: Literal["text", "image", "any"]
    classes: tuple[str, ...]
    readouts: Mapping[str, Readout] = field(default_factory=dict)
    readout: Callable[[Any], Readout | None] = _unknown_readout
    prefix_tokens: Callable[[Any], int] = _no_prefix
    patch_grid: Callable[[Any, int, int], tuple[int, int]] | None = None
    image_size: Callable[[Any], tuple[int, int] | None] = _unknown_size
    max_tokens: Callable[[Any], int | None] = _no_limit


@dataclass(frozen=True, eq=False)
class Member:
    """A module recognised as a member of a family.

    Attributes:
        family: The family.
        module: The outermost module of the model that belongs to it.
    """

    family: Family
    module: nn.Module

    @property
    def readout(self) -> Readout | None:
        """What the head of the module reads; ``None`` if the family does not know."""
        by_configuration = self.family.readout(self.module)
        if by_configuration is not None:
            return by_configuration
        names = (cls.__name__ for cls in type(self.module).__mro__)
        return next((self.family.readouts[name] for name in names if name in self.family.readouts), None)


UNKNOWN = Family("unknown", "any", ())
