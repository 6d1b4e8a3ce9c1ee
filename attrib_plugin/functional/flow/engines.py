"""Which engine solves, and how it tells of its progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

from attrib_plugin.functional.flow.problems import Engine, Tick

EngineName = Literal["auto", "scipy", "numba"]

# Below this many edges times outputs times samples, plain Python is done before the compiled code is loaded.
WORTH_LOADING = 10_000
_COMPILED = "attrib_plugin.functional.flow.numba_engine"


def choose_engine(name: EngineName, work: int) -> Engine:
    """The engine of a name.

    Args:
        name: ``"scipy"``, ``"numba"``, or ``"auto"``: numba where it is installed and the problem is not tiny.
        work: Edges of the graph times output tokens times samples.

    Returns:
        The engine.

    Raises:
        ValueError: If there is no engine of that name.
        ImportError: If numba was asked for by name and cannot be imported.
    """
    if name not in ("auto", "scipy", "numba"):
        raise ValueError(f"engine must be 'auto', 'scipy' or 'numba', not {name!r}.")
    worth = _COMPILED in sys.modules or (work >= WORTH_LOADING and find_spec("numba") is not None)
    if name == "numba" or (name == "auto" and worth):
        try:
            from attrib_plugin.functional.flow import numba_engine
        except ImportError as error:
            if name == "numba":
                raise ImportError(
                    f"engine='numba' needs numba, which cannot be imported ({error}). Install it with: "
                    "pip install 'attrib-plugin[flow]', or give engine='scipy'."
                ) from error
        else:
            return numba_engine.solve
    from attrib_plugin.functional.flow import scipy_engine

    return scipy_engine.solve


@contextmanager
def progress_of(n_problems: int, shown: bool | None) -> Iterator[Tick]:
    """A progress bar over flow problems, that appears when they take more than a second.

    Args:
        n_problems: How many are expected at most.
        shown: ``True`` shows it at once, ``False`` never, ``None`` after a second.

    Yields:
        A function to call with the number of problems solved since the last call.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

    delay = 0.0 if shown else 1.0
    with tqdm(total=n_problems, desc="Flow", unit="flow", delay=delay, leave=False, disable=shown is False) as bar:
        yield bar.update
