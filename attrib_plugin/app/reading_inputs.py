"""Texts and images that a command is given: as arguments, from files and folders, or from standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrib_plugin.errors import InputError

STDIN = "-"
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Given:
    """One text or image.

    Attributes:
        name: What output files are called after.
        value: A text, the path of an image, or an image.
    """

    name: str
    value: Any


def texts(arguments: Sequence[str], files: Sequence[Path] = ()) -> list[Given]:
    """Texts from arguments, from standard input and from files, one a line.

    Args:
        arguments: Texts; ``-`` stands for the lines of standard input.
        files: Text files in UTF-8, or folders, whose ``.txt`` files are read.

    Returns:
        The texts; empty lines are left out.

    Raises:
        InputError: If there is none, or a file cannot be read.
    """
    found = [line for text in arguments for line in (_lines(_stdin_text()) if text == STDIN else [text])]
    for path in _files(files, (".txt",)):
        try:
            found += _lines(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(path)!r} is no text file in UTF-8: {error}.") from error
    if not found:
        raise InputError("There is no text to explain. Give one as an argument, with --file FILE, or - for the input.")
    return [Given(f"text-{number}", text) for number, text in enumerate(found, 1)]


def images(arguments: Sequence[str]) -> list[Given]:
    """Images from files, folders and standard input.

    Args:
        arguments: Image files, folders of them, or ``-`` for one image on standard input.

    Returns:
        The images; names that occur twice are numbered.

    Raises:
        InputError: If there is none.
    """
    found = []
    for argument in arguments:
        if argument == STDIN:
            found.append(Given("stdin", _stdin_image()))
        else:
            found += [Given(path.stem, path) for path in _files([Path(argument)], IMAGE_ENDINGS)]
    if not found:
        raise InputError("There is no image to explain. Give image files, folders of them, or - for the input.")
    return _numbered(found)


def one_text(argument: str) -> str:
    """The text of a command that takes one.

    Args:
        argument: The text, or ``-`` for all of standard input.

    Returns:
        The text.
    """
    return _stdin_text().strip() if argument == STDIN else argument


def one_image(argument: str) -> Any:
    """The image of a command that takes one.

    Args:
        argument: A file, or ``-`` for standard input.

    Returns:
        The path, or the image.

    Raises:
        InputError: If there is no such file.
    """
    if argument == STDIN:
        return _stdin_image()
    if not Path(argument).is_file():
        raise InputError(f"There is no file {argument!r}.")
    return Path(argument)


def keep_inputs(outputs: Iterable[Path], given: Sequence[Any]) -> None:
    """Refuse to write over what is read.

    Args:
        outputs: Files that will be written.
        given: What is explained; paths are files.

    Raises:
        InputError: If one would be lost.
    """
    read = {one.resolve() for one in given if isinstance(one, Path)}
    if lost := [path for path in outputs if path.resolve() in read]:
        raise InputError(f"{str(lost[0])!r} is what is to be explained, and would be overwritten. Give another output.")


def _files(paths: Sequence[Path], endings: tuple[str, ...]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in endings)
            if not inside:
                raise InputError(f"The folder {str(path)!r} holds no file that ends in {', '.join(endings)}.")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise InputError(f"There is no file {str(path)!r}.")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _stdin_text() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"The text on standard input is not in UTF-8: {error}.") from error


def _stdin_image() -> Any:
    from attrib_plugin.runner.reading import open_picture

    return open_picture(io.BytesIO(sys.stdin.buffer.read()), "Standard input")


def _numbered(given: list[Given]) -> list[Given]:
    names = [one.name for one in given]
    return [
        Given(f"{one.name}-{number}", one.value) if names.count(one.name) > 1 else one
        for number, one in enumerate(given, 1)
    ]
