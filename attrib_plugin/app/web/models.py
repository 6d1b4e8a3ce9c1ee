"""The demo's models: loaded once, when they are first asked for, and shared by all users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Literal

from attrib_plugin.app.bundled import BundledModel
from attrib_plugin.app.catalogue import modality_of, model_examples, model_names
from attrib_plugin.app.loading import load_bundled, load_model, missing_for
from attrib_plugin.errors import InputError

Modality = Literal["text", "image"]


class ModelShelf:
    """Models by name. What is bundled is loaded at the first use; what the user names, at once.

    Args:
        named: Models of the user, as ``attrib-plugin explain --model`` takes them, with ``text=`` or ``image=`` in
            front where the name alone does not say what it reads.

    Raises:
        InputError: If one cannot be loaded.
    """

    def __init__(self, named: Sequence[str] = ()) -> None:
        self._loaded: dict[str, BundledModel] = {}
        self._loaders: dict[str, Callable[[], BundledModel]] = {}
        self._lock = Lock()
        self._named: set[str] = set()
        for given in named:
            self._put(given)
        for name in model_names():
            self._loaders.setdefault(name, partial(load_bundled, name))
        self._modalities = {name: self._modality_of(name) for name in self._loaders}

    def names(self, modality: Modality) -> list[str]:
        """Models that read texts, or images; the user's own first.

        Args:
            modality: What they read.

        Returns:
            Names.
        """
        found = [name for name, reads in self._modalities.items() if reads == modality]
        # The photo model before the digits, unless the user has named models.
        return sorted(found, key=lambda name: (name in model_names() and name not in self._named, name != "photo"))

    def get(self, name: str) -> BundledModel:
        """A model.

        Args:
            name: Its name.

        Returns:
            The model, the same object every time.

        Raises:
            InputError: If there is none of this name.
        """
        if name not in self._loaders:
            raise InputError(f"The demo has no model {name!r}.")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._loaders[name]()
            return self._loaded[name]

    def n_layers(self, name: str) -> int | None:
        """Number of layers of a model.

        Args:
            name: Its name.

        Returns:
            The number; ``None`` if it is not known.
        """
        model = self.get(name).model
        blocks = getattr(model, "blocks", None)
        if blocks is not None and hasattr(blocks, "__len__"):
            return len(blocks)
        count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
        return count if isinstance(count, int) else None

    def _put(self, given: str) -> None:
        reads, equals, name = given.rpartition("=")
        if equals and reads not in ("text", "image"):
            raise InputError(f"Expected text=NAME or image=NAME, found {given!r}.")
        if not equals and name in model_names():
            self._loaders[name] = partial(load_bundled, name)
            self._named.add(name)
            return
        bundle = _load(name, reads or None)
        self._loaded[name], self._loaders[name] = bundle, lambda: bundle

    def examples(self, name: str) -> tuple[str, ...]:
        """Inputs to try a model with; a bundled one is not loaded for that.

        Args:
            name: Its name.

        Returns:
            Texts, or paths of images; none for a model of the user.
        """
        return model_examples(name) if name in model_names() else ()

    def _modality_of(self, name: str) -> Modality | None:
        """What a model reads; ``None`` if what it needs is not installed."""
        return (
            (modality_of(name) if missing_for(name) is None else None)
            if name in model_names()
            else self.get(name).modality
        )


def _load(name: str, reads: str | None) -> BundledModel:
    if reads == "text":
        return load_model(name, "text")
    if reads == "image":
        return load_model(name, "image")
    try:
        return load_model(name, "image")
    except InputError as no_image:
        try:
            return load_model(name, "text")
        except InputError:
            raise no_image from None
