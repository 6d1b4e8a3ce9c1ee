"""The model hub: whether it can be reached, found out once and in seconds rather than by minutes of retries."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

_SECONDS = 4.0


@lru_cache
def is_reachable() -> bool:
    """Whether the hub answers; asked once.

    Returns:
        False as well if ``HF_HUB_OFFLINE`` forbids to ask.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "on", "yes", "true"):
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not address.startswith(("https://", "http://")):
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # It answered.
    except (OSError, ValueError):
        return False


@contextmanager
def without_retries() -> Iterator[None]:
    """Let model libraries look at local files alone if the hub does not answer.

    Yields:
        Nothing.
    """
    if is_reachable():
        yield
        return
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    # It has read the variable when it was imported.
    constants = sys.modules.get("huggingface_hub.constants")
    was = getattr(constants, "HF_HUB_OFFLINE", None)
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # a module variable
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
        if constants is not None:
            constants.HF_HUB_OFFLINE = was  # type: ignore[attr-defined]  # a module variable


def why_not_local() -> str:
    """What to say of a model that is not on this machine.

    Returns:
        A sentence.
    """
    if is_reachable():
        return "The model hub does not have it, or not in a form that can be read."
    return (
        "It is not among the files on this machine, and the model hub cannot be reached. Give a folder that holds the "
        "model, or a bundled model."
    )
