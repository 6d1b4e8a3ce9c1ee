"""How a piece of HTML says what it looks like: in each element, or in a style sheet for a page with a strict policy."""

from __future__ import annotations

from typing import Protocol


class Styles(Protocol):
    """Where declarations of CSS go."""

    def __call__(self, declarations: str, *, dark: str = "", name: str = "") -> str:
        """The attributes of an element.

        Args:
            declarations: CSS for light pages and print.
            dark: CSS that differs on dark pages.
            name: A class of the page's own style sheet.

        Returns:
            Attributes as HTML.
        """


class InlineStyles:
    """Everything in the element itself, for notebooks, which keep no style sheet."""

    def __call__(self, declarations: str, *, dark: str = "", name: str = "") -> str:
        """As in :class:`Styles`; ``dark`` and ``name`` have no place here."""
        return f'style="{declarations}"' if declarations else ""


class SheetStyles:
    """Classes in elements, and one style sheet, which a content security policy can name by its hash."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def __call__(self, declarations: str, *, dark: str = "", name: str = "") -> str:
        """As in :class:`Styles`."""
        names = [name] if name else []
        if declarations:
            names.append(self._names.setdefault((declarations, dark), f"s{len(self._names)}"))
        return f'class="{" ".join(names)}"' if names else ""

    def sheet(self) -> str:
        """The rules of all classes so far.

        Returns:
            CSS.
        """
        light = [f".{name}{{{declarations}}}" for (declarations, _), name in self._names.items()]
        dark = [f".{name}{{{declarations}}}" for (_, declarations), name in self._names.items() if declarations]
        # Print is always light.
        return "\n".join([*light, "@media screen and (prefers-color-scheme: dark){", *dark, "}"])


INLINE = InlineStyles()
