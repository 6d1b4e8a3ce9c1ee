"""``explain_many``: explanations of several texts or images, several at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from attrib_plugin.errors import InputError
from attrib_plugin.families import find_member
from attrib_plugin.methods import GradientRollout
from attrib_plugin.methods.base import AttentionAttribution
from attrib_plugin.postprocessing import merge_words
from attrib_plugin.runner.explanation import Explanation, Prediction
from attrib_plugin.runner.reading import (
    class_names,
    class_scores,
    find_class,
    is_multilabel,
    names_image,
    ranked_predictions,
    read_image,
    read_text,
    unpack_pipeline,
)
from attrib_plugin.visualization import Tone


@dataclass(frozen=True, eq=False)
class _Read:
    """One input as the model takes it: a batch of one, further keyword inputs, and what is needed to show it."""

    inputs: Tensor
    keywords: Mapping[str, Any]
    shown: dict[str, Any]


def explain_many(
    model: nn.Module,
    texts_or_images: Sequence[Any],
    *,
    tokenizer: Any = None,
    processor: Any = None,
    method: Callable[..., AttentionAttribution] = GradientRollout,
    preset: str | None = None,
    target: int | str | None = None,
    against: int | str | None = None,
    end_layer: int | None = None,
    labels: Sequence[str] | None = None,
    multilabel: bool | None = None,
    batch_size: int = 8,
    **options: Any,
) -> Iterator[Explanation]:
    """Explain several predictions; inputs of one shape, and texts that can be padded, run together.

    Texts are padded only where tokenizer and configuration name the same padding token; padding changes no value.

    Cost: for each batch one forward pass for the predictions, and what the method costs.

    Args:
        model: The model, unmodified, or a transformers pipeline; inputs are moved to its device.
        texts_or_images: Each as in :func:`~attrib_plugin.runner.explain.explain`.
        tokenizer: As in ``explain``.
        processor: As in ``explain``.
        method: As in ``explain``.
        preset: As in ``explain``.
        target: Class by index or name, the same for all; ``None`` is each one's predicted class.
        against: Class to contrast the target with.
        end_layer: As in ``explain``.
        labels: Names of the classes.
        multilabel: Whether each class has a probability of its own.
        batch_size: Most inputs that run at once.
        **options: Options of the method.

    Yields:
        One explanation an input, in order; batch by batch, so that progress can be shown. ``seconds`` is the time of
        the batch divided by its size.

    Raises:
        InputError: If an input is of no use; with several, the message says which.
        TargetError: If there is no such class.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}.")
    model, tokenizer, processor = unpack_pipeline(model, tokenizer, processor)
    attribution = _make(method, preset, model, options)
    settings = {**({"preset": preset} if preset else {}), **options}
    settings |= {} if end_layer is None else {"end_layer": end_layer}
    reads = _read_all(model, texts_or_images, tokenizer, processor)
    for batch in _batches(reads, batch_size, _padding_id(model, tokenizer)):
        inputs, keywords = _joined(batch, _padding_id(model, tokenizer))
        scores = class_scores(model, inputs, keywords)
        names = class_names(model, labels, scores.shape[1])
        ranked = [ranked_predictions(row, names, is_multilabel(model, multilabel)) for row in scores]
        wanted = [one[0] if target is None else find_class(target, one) for one in ranked]
        opponents = [None if against is None else find_class(against, one) for one in ranked]
        targets = _target_options(attribution, scores, wanted, opponents)
        start = time.perf_counter()
        maps = _maps(attribution, inputs, end_layer, forward_kwargs=keywords, **targets)
        seconds = (time.perf_counter() - start) / len(batch)
        record = partial(
            Explanation,
            method=attribution.get_name(),
            settings=settings,
            tone=tone_of(attribution),
            seconds=seconds,
            versions=library_versions(),
        )
        for index, read in enumerate(batch):
            relevance = maps[index].float().cpu()
            if "tokens" in read.shown:
                relevance = relevance[: len(read.shown["tokens"])]
                read.shown["word_relevance"] = merge_words(relevance, read.shown["words"])
            yield record(
                target=wanted[index],
                against=opponents[index],
                predictions=ranked[index],
                relevance=relevance,
                **read.shown,
            )


def tone_of(attribution: AttentionAttribution) -> Tone:
    """What the values of a method's maps mean.

    Args:
        attribution: The method.

    Returns:
        Evidence for, against, both, or a share of attention.
    """
    if not attribution.needs_gradients:
        return "share"
    tones: dict[str, Tone] = {"positive": "for", "negative": "against", "signed": "signed"}
    return tones[getattr(attribution, "sign", "positive")]


def library_versions() -> dict[str, str]:
    """Versions of this package and the libraries that results depend on.

    Returns:
        Version by distribution name; libraries that are not installed are left out.
    """
    found = {}
    for name in ("attrib-plugin", "torch", "captum", "transformers", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _make(
    method: Callable[..., AttentionAttribution], preset: str | None, model: nn.Module, options: Mapping[str, Any]
) -> AttentionAttribution:
    if preset is None:
        return method(model, **options)
    if not (isinstance(method, type) and issubclass(method, AttentionAttribution)):
        raise InputError(f"preset={preset!r} needs the class of a method of this package, found {method!r}.")
    return method.from_preset(preset, model, **options)


def _read_all(model: nn.Module, given: Sequence[Any], tokenizer: Any, processor: Any) -> Iterator[_Read]:
    for number, one in enumerate(given, 1):
        try:
            if isinstance(one, str) and not names_image(one, processor):
                read = _Read(*read_text(one, tokenizer, model))
                _check_length(model, read.inputs)
            else:
                read = _Read(*read_image(one, processor, model))
        except InputError as error:
            raise error if len(given) == 1 else InputError(f"Input {number} of {len(given)}: {error}") from error
        yield read


def _check_length(model: nn.Module, ids: Tensor) -> None:
    """Before the prediction, which would fail in the depths of the model."""
    member = find_member(model)
    most = member.family.max_tokens(member.module)
    if most is not None and ids.shape[1] > most:
        raise InputError(
            f"The text has {ids.shape[1]} tokens and the model takes {most} at most. Give a shorter text, or explain "
            "its parts."
        )


def _batches(reads: Iterator[_Read], most: int, padding_id: int | None) -> Iterator[list[_Read]]:
    """Neighbours that can run together."""
    batch: list[_Read] = []
    for read in reads:
        is_text = not read.inputs.is_floating_point()
        fits = padding_id is not None if is_text else batch and batch[0].inputs.shape == read.inputs.shape
        if batch and (len(batch) == most or not fits):
            yield batch
            batch = []
        batch.append(read)
    if batch:
        yield batch


def _joined(batch: Sequence[_Read], padding_id: int | None) -> tuple[Tensor, dict[str, Any]]:
    """One batch out of batches of one; texts padded at the right."""
    first = batch[0]
    if len(batch) == 1 or first.inputs.is_floating_point():
        return torch.cat([read.inputs for read in batch]), dict(first.keywords)
    longest = max(read.inputs.shape[1] for read in batch)

    def stack(tensors: Sequence[Tensor], value: int) -> Tensor:
        return torch.cat([pad(one, (0, longest - one.shape[1]), value=value) for one in tensors])

    keywords = {name: stack([read.keywords[name] for read in batch], 0) for name in first.keywords}
    return stack([read.inputs for read in batch], padding_id or 0), keywords


def _padding_id(model: nn.Module, tokenizer: Any) -> int | None:
    """The id that pads, if tokenizer and model agree on it."""
    by_tokenizer = getattr(tokenizer, "pad_token_id", None)
    by_model = getattr(getattr(model, "config", None), "pad_token_id", None)
    return by_tokenizer if isinstance(by_tokenizer, int) and by_tokenizer == by_model else None


def _target_options(
    attribution: AttentionAttribution,
    scores: Tensor,
    wanted: Sequence[Prediction],
    opponents: Sequence[Prediction | None],
) -> dict[str, Any]:
    if not attribution.needs_gradients or scores.shape[1] == 1:
        return {}
    opponent = [one.index for one in opponents if one is not None]
    return {"target": [one.index for one in wanted], "against": opponent or None}


def _maps(attribution: AttentionAttribution, inputs: Tensor, end_layer: int | None, **arguments: Any) -> Tensor:
    """One value a token (B,T) or patch (B,rows,columns)."""
    if end_layer is None:
        found: Tensor = attribution.attribute(inputs, return_input_shape=False, **arguments)
        return found.squeeze(1) if found.dim() == 4 else found
    rows = attribution.layer_rows(inputs, **arguments)
    if not 1 <= end_layer <= len(rows):
        raise InputError(
            f"The model has {len(rows)} layers; expected a last layer from 1 to {len(rows)}, not {end_layer}."
        )
    if (start := getattr(attribution, "start_layer", 0)) >= end_layer:
        raise InputError(
            f"Nothing is followed from start_layer={start}, counted from 0, to end_layer={end_layer}: give an "
            f"end_layer of at least {start + 1}."
        )
    row = rows[end_layer - 1]
    if not inputs.is_floating_point():
        return row
    n_rows, n_columns = _grid(attribution, inputs)
    return row[:, -n_rows * n_columns :].reshape(-1, n_rows, n_columns)


def _grid(attribution: AttentionAttribution, images: Tensor) -> tuple[int, int]:
    member = find_member(attribution.model)
    if attribution.grid is not None:
        return attribution.grid
    if member.family.patch_grid is None:
        raise InputError("The patch grid of this model is not known: give grid=(rows, columns).")
    return member.family.patch_grid(member.module, images.shape[-2], images.shape[-1])
