"""What may run the operations of a model in place of torch during a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn


class Interpreter(Protocol):
    """Runs operations with a backward of its own; knows nothing of attention."""

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], module: str) -> Any:
        """Run one torch function called by the module of the given name."""

    def enter(self, module: nn.Module, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Take note that a module starts; return arguments to run it with instead, or ``None``."""

    def leave(self, module: nn.Module, name: str, output: Any) -> Any:
        """Take note that a module has ended; return output to go on with instead, or ``None``."""
