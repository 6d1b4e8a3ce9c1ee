"""Options that take one of a few values, or a whole number."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import SupportsIndex


def check_choice(option: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that an option does not take.

    Args:
        option: Name of the option.
        value: What was given.
        choices: What it takes, at least two.

    Raises:
        ValueError: If the value is none of them.
    """
    if value not in choices:
        listed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ValueError(f"{option} must be {listed}, not {value!r}.")


def whole_number(value: object) -> int | None:
    """A whole number of Python or NumPy.

    Args:
        value: What was given.

    Returns:
        The number; ``None`` if the value is none.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return index(value)
    except TypeError:  # a tensor or an array of several values
        return None
