"""Options that take one of a few values."""

from __future__ import annotations

from collections.abc import Sequence


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
