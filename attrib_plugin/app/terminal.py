"""What the command line says, and where: results on standard output, everything else on standard error."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

_PIPED_WIDTH = 120


@dataclass
class _State:
    """What the options before the command say."""

    debug: bool = False
    results_on_stderr: bool = False


STATE = _State()


def console() -> Console:
    """Where results go: standard output, or standard error while standard output carries JSON.

    Returns:
        A console without colours, and of a fixed width, where the output is no terminal.
    """
    return _console(stderr=STATE.results_on_stderr)


def say(text: str) -> None:
    """Print a line, as it is.

    Args:
        text: The line.
    """
    console().print(Text(text), soft_wrap=True)


def note(text: str) -> None:
    """Print a line on standard error, as it is.

    Args:
        text: The line.
    """
    _console(stderr=True).print(Text(text), soft_wrap=True)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Any]:
    """Show that something takes its time: only on a terminal, and gone when it is done.

    Args:
        what: What is done.
        total: How many steps it has, if that is known.

    Yields:
        A function that is called after each step, with the description of the next one if there is a new one.
    """
    counted = (BarColumn(), MofNCompleteColumn()) if total is not None and total > 1 else ()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), *counted, TimeElapsedColumn())
    shown = _console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def step(description: str | None = None, advance: int = 1) -> None:
            bar.update(task, advance=advance, description=description or what)

        yield step


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what libraries say to themselves; our own warnings become notes.

    With ``--debug``, everything is said.

    Yields:
        Nothing.
    """
    if STATE.debug:
        yield
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("transformers", "timm", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            own = (one for one in caught if one.category.__module__ == "attrib_plugin.errors")
            for said in dict.fromkeys(str(one.message) for one in own):
                note(f"note: {said}")


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # A pipe has no width: tables are not cut to the 80 columns that Rich would take.
    return Console(stderr=stderr, width=None if stream.isatty() else _PIPED_WIDTH, highlight=False)
