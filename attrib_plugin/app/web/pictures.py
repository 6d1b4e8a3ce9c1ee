"""Uploads and texts as the demo takes them: within limits, checked before they are decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrib_plugin.errors import InputError
from attrib_plugin.runner.reading import as_seen

if TYPE_CHECKING:
    from PIL import Image

MAX_CHARACTERS = 2000
MAX_MEGABYTES = 10
MAX_PIXELS = 25_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def check_text(text: str | None) -> str:
    """A text that is short enough.

    Args:
        text: What was typed.

    Returns:
        The text.

    Raises:
        InputError: If there is none, or it is too long.
    """
    if not text or not text.strip():
        raise InputError("Type a text first, or choose an example.")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"The text has {len(text)} characters; the demo takes {MAX_CHARACTERS} at most.")
    return text


def read_picture(path: str | None) -> Image.Image:
    """An image as a browser shows it: turned as its camera says, on white where it is transparent.

    Args:
        path: The uploaded file.

    Returns:
        The image, in colour or grey.

    Raises:
        InputError: If there is none, it is too large, or it cannot be read.
    """
    from PIL import Image

    if not path:
        raise InputError("Upload an image first, or choose an example.")
    if (size := Path(path).stat().st_size) > MAX_MEGABYTES * 2**20:
        raise InputError(f"The image has {size / 2**20:.1f} MB; the demo takes {MAX_MEGABYTES} MB at most.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"The image has {width} x {height} pixels; the demo takes {MAX_PIXELS // 10**6} million at most."
                )
            return as_seen(image)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"This is no image that can be read ({', '.join(FORMATS)}).") from error
