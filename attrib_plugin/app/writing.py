"""Explanations as files: one, one for each input, or one report for all, by the ending of a name."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attrib_plugin.errors import InputError, MissingDependencyError
from attrib_plugin.runner.explanation import Explanation
from attrib_plugin.runner.explanation import as_json as record_json

STDOUT = "-"
_PICTURES = (".png", ".svg", ".pdf")
ENDINGS = (".html", ".json", ".npz", ".safetensors", *_PICTURES)


def check_outputs(outputs: Sequence[str], n_inputs: int, ending: str) -> None:
    """Refuse outputs that cannot be written, before anything is computed.

    Args:
        outputs: Files, folders, or ``-`` for JSON on standard output.
        n_inputs: How many explanations there will be.
        ending: Ending of the files in a folder.

    Raises:
        InputError: If one cannot be written.
    """
    if ending not in ENDINGS:
        raise InputError(f"Expected a format out of {', '.join(one[1:] for one in ENDINGS)}, found {ending[1:]!r}.")
    for output in outputs:
        path = Path(output)
        if output == STDOUT or _is_folder(output):
            continue
        if path.suffix not in ENDINGS:
            raise InputError(
                f"Expected a name that ends in {', '.join(ENDINGS)}, or a folder (with / at the end), found "
                f"{path.name!r}."
            )
        if not path.parent.is_dir():
            raise InputError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
        if n_inputs > 1 and path.suffix in _PICTURES:
            raise InputError(
                f"{path.name!r} holds one picture, and there are {n_inputs} inputs. Give a folder (with / at the end), "
                "or a name that ends in .html, .json, .npz or .safetensors for all of them."
            )


def paths_of(output: str, names: Sequence[str], ending: str) -> list[Path]:
    """Which files an output stands for.

    Args:
        output: As in :func:`write`, or ``-``.
        names: What to call each explanation.
        ending: Ending of the files in a folder.

    Returns:
        One file for all; for a folder a file each, no two of one name; none for standard output.
    """
    if output == STDOUT:
        return []
    if not _is_folder(output):
        return [Path(output)]
    found: dict[str, Path] = {}
    for name in map(_safe, names):
        free = next(one for one in _numbered(name) if one.casefold() not in found)
        found[free.casefold()] = Path(output) / f"{free}{ending}"
    return list(found.values())


def write(explanations: Sequence[Explanation], names: Sequence[str], output: str, ending: str) -> list[Path]:
    """Write explanations.

    Args:
        explanations: At least one.
        names: What to call each.
        output: A file, or a folder that ends in ``/`` or exists.
        ending: Ending of the files in a folder.

    Returns:
        What was written.

    Raises:
        InputError: If it cannot be written.
        MissingDependencyError: If a library is missing.
    """
    try:
        if not _is_folder(output):
            return [_write_file(explanations, names, Path(output))]
        Path(output).mkdir(parents=True, exist_ok=True)
        return [
            _write_file([one], [name], path)
            for one, name, path in zip(explanations, names, paths_of(output, names, ending), strict=True)
        ]
    except OSError as error:
        raise InputError(f"{output!r} cannot be written: {error.strerror or error}.") from error


def as_json(explanations: Sequence[Explanation], names: Sequence[str]) -> str:
    """Explanations as JSON: one object for one input, a list for several.

    Args:
        explanations: At least one.
        names: What to call each.

    Returns:
        JSON.
    """
    records = [{"name": name, **one.as_dict()} for one, name in zip(explanations, names, strict=True)]
    return record_json(records[0] if len(records) == 1 else records)


def command_line() -> str:
    """The command that is running, as it can be typed again.

    Returns:
        One line.
    """
    return shlex.join(["attrib-plugin", *sys.argv[1:]])


def _write_file(explanations: Sequence[Explanation], names: Sequence[str], path: Path) -> Path:
    if path.suffix == ".json":
        path.write_text(as_json(explanations, names) + "\n", encoding="utf-8")
    elif path.suffix == ".safetensors":
        _write_safetensors(explanations, names, path)
    elif path.suffix == ".html":
        from attrib_plugin.runner.report import Section, write_report

        sections = [Section(_heading(one, name), [one]) for one, name in zip(explanations, names, strict=True)]
        write_report(path, sections, title=f"{explanations[0].method} explained", command=command_line())
    elif path.suffix == ".npz" and len(explanations) > 1:
        arrays: dict[str, Any] = {
            f"relevance_{number}": one.relevance.numpy() for number, one in enumerate(explanations)
        }
        np.savez_compressed(path, record=np.array(as_json(explanations, names)), **arrays)
    else:
        explanations[0].save(path)
    return path


def _write_safetensors(explanations: Sequence[Explanation], names: Sequence[str], path: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingDependencyError("safetensors", "text") from error
    numbered = {f"relevance_{number}": one.relevance for number, one in enumerate(explanations)}
    tensors = numbered if len(explanations) > 1 else {"relevance": explanations[0].relevance}
    contiguous: dict[str, torch.Tensor] = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"record": as_json(explanations, names)})


def _heading(explanation: Explanation, name: str) -> str:
    return f"{name}: {explanation.predictions[0].label}"


def _is_folder(output: str) -> bool:
    return output.endswith(("/", "\\")) or Path(output).is_dir()


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _safe(name: str) -> str:
    """A name without what a file system, or a shell, takes for something else."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "input"
