"""What a family table holds: facts about tokens, looked up from a module, without any forward code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from attrib_plugin.records import Readout

CLS = Readout(prefix=(1.0,))
MEAN = Readout(rest=1.0)
LAST = Readout(last=1.0)
POOL = Readout(pool=1.0)


def _no_limit(module: Any) -> None:
    return None


def _no_prefix(module: Any) -> int:
    return 0


def _unknown_readout(module: Any) -> Readout | None:
    return None


def _unknown_size(module: Any) -> tuple[int, int] | None:
    return None


def _any_size(module: Any) -> bool:
    return False


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size given as one number or as two.

    Args:
        size: As in a configuration.

    Returns:
        Height and width.
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def config_pair(name: str) -> Callable[[Any], tuple[int, int]]:
    """Look a size up in a module's configuration.

    Args:
        name: Its name there.

    Returns:
        A function from the module to height and width.
    """
    return lambda module: pair(getattr(module.config, name))


def config_patches(module: Any, height: int, width: int) -> tuple[int, int]:
    """Whole patches of an image; the rest at the right and at the bottom is seen by no patch.

    Args:
        module: A module with ``config.patch_size``.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Rows and columns.
    """
    patch_height, patch_width = pair(module.config.patch_size)
    return height // patch_height, width // patch_width


def _positions_by_no_input(module: Any, inputs: Tensor) -> Tensor | None:
    return None


def _nothing_refused(module: Any) -> str | None:
    return None


def _multiple_choice(module: Any) -> str | None:
    if not type(module).__name__.endswith("ForMultipleChoice"):
        return None
    return (
        "it compares several texts, and attention does not go from one to another. Explain the score of one choice at "
        "a time, as (B, T) ids with masks of shape (B, 1, T): Method(lambda ids, **options: model(ids[:, None], "
        '**options), model=model.base_model, readout="cls").'
    )


def end_of_text(config: Any, ids: Tensor) -> Tensor:
    """The position that CLIP's text tower reads: by the id, whatever the padding.

    Args:
        config: Configuration of the text tower, with ``eos_token_id``.
        ids: Token ids, ``batch token``.

    Returns:
        One position a sample.
    """
    end = config.eos_token_id
    # Checkpoints of OpenAI carry a wrong id of 2 and have the end of text as their highest id.
    return (ids if end == 2 else (ids == end).int()).argmax(-1)


@dataclass(frozen=True)
class Tower:
    """One of the two towers of a model that scores images against texts.

    Attributes:
        part: Dotted name of the part whose attention is the tower's, within the family's module.
        argument: Keyword of the tower's input.
        readout: What of its tokens goes into the score; ``None`` asks the family of the part.
        read_positions: The position (B,) that is read, from the family's module and the ids; asked before ``readout``.
    """

    part: str
    argument: str
    readout: Callable[[Any], Readout | None] = _unknown_readout
    read_positions: Callable[[Any, Tensor], Tensor | None] = _positions_by_no_input


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
        patch_size: Height and width of a patch in pixels; ``None`` if the grid is spread evenly over the image.
        image_size: The only height and width that the module takes; ``None`` if it takes any.
        smallest_image: Least height and width that the module takes; ``None`` if any image of one patch will do.
        whole_patches: Whether the module refuses images that are not a whole number of patches.
        refusal: Why the module cannot be followed from token to token, and what to do; ``None`` if it can.
        max_tokens: Longest text in tokens; ``None`` if unknown.
        read_positions: The position (B,) that the head reads where the input decides it, from the module and its ids
            or embeddings; asked before ``readout``, ``None`` where the input decides nothing.
        windowed: Whether the module attends within windows or merges tokens, so that tokens must be followed.
        token_heads: Endings of class names whose scores (batch, token) are one a token, so that the target is the
            position read.
        towers: Image tower and text tower of a model that scores one against the other.
    """

    name: str
    modality: Literal["text", "image", "any"]
    classes: tuple[str, ...]
    readouts: Mapping[str, Readout] = field(default_factory=dict)
    readout: Callable[[Any], Readout | None] = _unknown_readout
    prefix_tokens: Callable[[Any], int] = _no_prefix
    patch_grid: Callable[[Any, int, int], tuple[int, int]] | None = None
    patch_size: Callable[[Any], tuple[int, int] | None] = _unknown_size
    image_size: Callable[[Any], tuple[int, int] | None] = _unknown_size
    smallest_image: Callable[[Any], tuple[int, int] | None] = _unknown_size
    whole_patches: Callable[[Any], bool] = _any_size
    refusal: Callable[[Any], str | None] = _multiple_choice
    max_tokens: Callable[[Any], int | None] = _no_limit
    read_positions: Callable[[Any, Tensor], Tensor | None] = _positions_by_no_input
    windowed: bool = False
    token_heads: tuple[str, ...] = ("ForQuestionAnswering",)
    towers: tuple[Tower, Tower] | None = None


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

    @property
    def unrefused(self) -> Member:
        """The same member, for a method that follows what the family refuses."""
        return replace(self, family=replace(self.family, refusal=_nothing_refused))

    @property
    def scores_tokens(self) -> bool:
        """Whether scores (batch, token) of the module are one a token."""
        names = [cls.__name__ for cls in type(self.module).__mro__]
        return any(name.endswith(ending) for name in names for ending in self.family.token_heads)


UNKNOWN = Family("unknown", "any", (), token_heads=())
