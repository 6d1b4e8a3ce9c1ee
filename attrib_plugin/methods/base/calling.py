"""Whether the model can be called so: keywords that it would ignore, tensors of another dtype or device."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from torch import Tensor, nn

from attrib_plugin.errors import InputError, UnknownKeywordWarning
from attrib_plugin.methods.base.caller import warn_caller

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}

# A name that differs from another by one of these alone is one of its own and no slip: pixel_attention_mask.
_PARTS = ("encoder_", "decoder_", "cross_", "pixel_", "image_", "text_", "video_", "audio_", "mm_")

# "attn_mask" for "attention_mask" is the farthest slip that is caught; names that differ in meaning lie below.
_NEAR = 0.78

_MISMATCH = re.compile(r"should be the same|same d(ata)?type|mixed dtype|scalar type|same device|expected device")


def module_inside(forward_func: Callable[..., Any], model: nn.Module | None, method: str) -> nn.Module:
    """The module whose attention is read.

    Args:
        forward_func: What the user gave.
        model: The module that the user named, if any.
        method: The method's name, for the message.

    Returns:
        The module.

    Raises:
        InputError: If there is none.
    """
    found = forward_func if model is None else model
    if not isinstance(found, nn.Module):
        raise InputError(
            f"Expected an nn.Module, found {type(found).__name__}. Name the module inside the function: "
            f"{method}(function, model=module)."
        )
    return found


def unwrapped(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """What runs inside torch's own wrappers.

    Args:
        forward_func: A module or a function.

    Returns:
        The module inside ``DataParallel`` and the like, or the argument itself.
    """
    while attribute := _WRAPPERS.get(type(forward_func).__name__):
        forward_func = getattr(forward_func, attribute)
    return forward_func


def parameters_of(forward_func: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters with which a module or a function is called.

    Args:
        forward_func: A module or a function.

    Returns:
        Parameters by name; ``None`` for what has no signature, such as TorchScript.
    """
    signature = _signature(forward_func)
    return None if signature is None else signature.parameters


def check_call(
    forward_func: Callable[..., Any], module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> None:
    """Check that the arguments fit the signature, and that no keyword is a slip that would be swallowed.

    Models of transformers take any keyword and ignore those that they do not know, so that ``attention_msk=mask``
    would explain the padding too.

    Args:
        forward_func: What will be called.
        module: The module of a known family inside of it.
        arguments: Positional arguments.
        keywords: Keyword arguments.

    Raises:
        InputError: If the arguments do not fit, or a keyword that a model would ignore is nearly one that it takes.
    """
    called = unwrapped(forward_func)
    signature = _signature(called)
    if signature is None:
        return
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise InputError(f"{_name_of(called)} cannot be called so: {error}.{_hint(keywords, signature)}") from error
    if any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
        _check_for_slips(called, module, signature, keywords)


@contextmanager
def explained_mismatch(inputs: Tensor, model: nn.Module) -> Iterator[None]:
    """Say of inputs whose dtype or device is not the model's what to do, if the model cannot take them.

    Many models convert what they get, and autocast does, so only the model itself can say that it does not.

    Args:
        inputs: The tensor that is explained.
        model: The model.

    Yields:
        Nothing.

    Raises:
        InputError: In place of the error of torch.
    """
    try:
        yield
    except RuntimeError as error:
        like = next((one for one in model.parameters() if one.is_floating_point()), None)
        if like is not None and like.is_meta:
            raise InputError(
                f"The parameters of {type(model).__name__} are on the meta device, where tensors have no values. Load "
                "its weights first."
            ) from error
        if like is None or _MISMATCH.search(str(error)) is None:
            raise
        name = type(model).__name__
        if inputs.device != like.device:
            raise InputError(
                f"Expected inputs on {like.device}, where {name} is, found them on {inputs.device}: give "
                f"inputs.to('{like.device}'), and masks likewise."
            ) from error
        if inputs.is_floating_point() and inputs.dtype != like.dtype:
            raise InputError(
                f"Expected inputs of {like.dtype}, the dtype of {name}, found {inputs.dtype}, which its forward does "
                f"not convert: give inputs.to({like.dtype}), or convert the model by model.to({inputs.dtype})."
            ) from error
        raise


def _signature(called: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(called.forward if isinstance(called, nn.Module) else called)
    except (TypeError, ValueError):  # TorchScript and functions written in C
        return None


def _check_for_slips(
    called: Callable[..., Any], module: nn.Module, signature: inspect.Signature, keywords: Mapping[str, Any]
) -> None:
    inner = _signature(module)
    if inner is None or not _is_of_transformers(module):
        return
    taken = _names(inner)
    unknown = [name for name in keywords if name not in taken and name not in _names(signature)]
    known = _names_within(module) if unknown else set()
    for name in unknown:
        meant = _slip_for(name, taken)
        if name in known or meant is None:
            continue
        if called is module:
            raise InputError(
                f"{_name_of(called)} does not know the keyword {name!r} and would ignore it. Did you mean {meant!r}?"
            )
        # A function of the user's may well take that keyword for itself.
        warn_caller(
            f"{_name_of(called)} is given the keyword {name!r}, which {type(module).__name__} does not know and would "
            f"ignore. Did you mean {meant!r}?",
            UnknownKeywordWarning,
        )


def _slip_for(name: str, taken: set[str]) -> str | None:
    """The name that was meant; ``None`` if the given one is none of the near ones misspelt."""
    words = name.count("_")
    alike = [one for one in taken if one.count("_") == words and _without_part(one) != _without_part(name)]
    return next(iter(get_close_matches(name, alike, 1, _NEAR)), None)


def _without_part(name: str) -> str:
    return next((name.removeprefix(part) for part in _PARTS if name.startswith(part)), name)


def _names(signature: inspect.Signature) -> set[str]:
    """Names that a function takes, with those in the annotation of its further keywords."""
    names = {
        one.name for one in signature.parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    for one in signature.parameters.values():
        for annotated in getattr(one.annotation, "__args__", ()) if one.kind is one.VAR_KEYWORD else ():
            names |= set(getattr(annotated, "__annotations__", ()))
    return names


def _names_within(module: nn.Module) -> set[str]:
    """Names that some part of a model takes; keywords are handed down to it."""
    names: set[str] = set()
    for kind in {type(part): part for part in module.modules()}.values():
        signature = _signature(kind)
        names |= set() if signature is None else _names(signature)
    return names


def _is_of_transformers(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "transformers"


def _hint(keywords: Mapping[str, Any], signature: inspect.Signature) -> str:
    names = sorted(_names(signature))
    unknown = next((name for name in keywords if name not in names), None)
    if unknown is None:
        return ""
    nearest = max(names, key=lambda name: SequenceMatcher(None, unknown, name).ratio(), default=None)
    if nearest is not None and SequenceMatcher(None, unknown, nearest).ratio() > 0.6:
        return f" Did you mean {nearest!r}?"
    return f" It takes {', '.join(names) or 'no keyword'}."


def _name_of(called: Callable[..., Any]) -> str:
    return type(called).__name__ if isinstance(called, nn.Module) else getattr(called, "__name__", repr(called))
