"""``compare``: several methods, ours, Captum's or anybody's, on the same inputs, with what each costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError
from attrib_plugin.postprocessing import TextToken
from attrib_plugin.runner.case import Baseline, Case, make_case
from attrib_plugin.runner.comparison import Comparison, MethodResult
from attrib_plugin.runner.contenders import Contender, Method, find_contenders
from attrib_plugin.runner.explain import library_versions
from attrib_plugin.runner.explanation import Prediction
from attrib_plugin.runner.measuring import measure, peak_memory
from attrib_plugin.runner.reading import (
    class_names,
    find_class,
    is_multilabel,
    names_image,
    pixels_of,
    ranked_predictions,
    read_image,
    read_text,
    unpack_pipeline,
)

Score = Callable[..., Any]
"""``score(forward_func, inputs, attributions, target=..., forward_kwargs=...)``, as the functions of
:mod:`attrib_plugin.evaluation` and Captum's metrics take it; a number, or one a sample."""


def compare(
    model: nn.Module,
    inputs: Any,
    methods: Sequence[Method] | Mapping[str, Method],
    *,
    target: Any = None,
    tokenizer: Any = None,
    processor: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    baseline: Baseline = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    scores: Mapping[str, Score] | None = None,
    memory: bool = True,
    repeats: int = 1,
    internal_batch_size: int = 16,
    labels: Sequence[str] | None = None,
    multilabel: bool | None = None,
    readout: Any = None,
    grid: tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
) -> Comparison:
    """Explain the same inputs with several methods.

    Every method explains the same score of the same model. Maps are brought onto one grid: tokens for text, the
    model's patches for images, where methods that give pixels are summed over each patch. A method that fails is a row
    with its error. Nothing is printed; warnings of a method are kept in its ``notes``. Methods that draw random numbers
    start from the same seed, whatever runs before them.

    Methods of Captum get a function that unwraps outputs of transformers, ``baseline`` where they take one, patches or
    tokens as features, and the defaults of Captum for everything else (``KernelShap`` and ``Lime`` at least three
    samples a feature). For token ids, gradient methods run on the input embeddings and are summed over their
    dimensions, layer methods on the embedding layer, and perturbation methods replace ids. ``LayerGradCam`` runs on
    the last convolution, which in a vision transformer makes the patches.

    Cost: one forward pass, and what each method costs; twice that with ``memory``.

    Args:
        model: The model, unmodified; or a transformers pipeline, which brings tokenizer and processor along.
        inputs: Token ids (B,T), images (B,C,H,W) or embeddings (B,T,D); or one text with ``tokenizer``, or one image
            (a file or PIL image) with ``processor``.
        methods: Methods, or methods by label: a class or an object of this package or of ``captum.attr``, its name
            (``"GradientRollout"``, ``"GradientRollout:chefer2021_generic"``, ``"IntegratedGradients"``), a
            ``functools.partial`` of a class of this package, or a function called with ``(inputs, target=classes)``.
        target: One class, by index or name, or one index a sample; ``None`` is each sample's predicted class.
        tokenizer: A fast transformers tokenizer or a ``sentencepiece.SentencePieceProcessor``.
        processor: A transformers image processor, or a function from a PIL image to a tensor.
        forward_kwargs: Keyword arguments of the model, such as ``attention_mask``.
        baseline: What stands for absence. Ids: ``"mask"``, ``"pad"``, ``"unk"`` or an id in place of every token that
            is not special, or ``"zero"`` embeddings; by default the first of mask and pad that exists. Images and
            embeddings: a number, by default 0 after the model's preprocessing. Or a tensor.
        options: Arguments of a method's ``attribute`` by its label: ``{"IntegratedGradients": {"n_steps": 20}}``.
        scores: Scores of the maps by name, each called as :data:`Score`.
        memory: Run each method once more to find its peak memory.
        repeats: Runs of each method; the times are those of the fastest.
        internal_batch_size: Largest number of samples that methods with many passes run at once.
        labels: Names of the classes; ``None`` takes those of the model's configuration, else numbers.
        multilabel: Whether each class has a probability of its own; ``None`` asks the model's configuration.
        readout: Which tokens the head reads, for models that no family knows.
        grid: Rows and columns of patches, for models that no family knows.
        prefix_tokens: Leading tokens that are no patches, for models that no family knows.

    Returns:
        Maps, times, passes, memory and scores.

    Raises:
        InputError: If there is no such method, the patch grid is not known, the baseline does not exist, or inputs
            are of no use.
        TargetError: If there is no such class.
    """
    model, tokenizer, processor = unpack_pipeline(model, tokenizer, processor)
    contenders = find_contenders(methods, options or {})
    tensor, keywords, shown = _read(model, inputs, tokenizer, processor, forward_kwargs or {})
    if isinstance(target, str):
        target = _index_of(model, target, labels)
    case, output = make_case(
        model,
        tensor,
        keywords,
        target=target,
        baseline=baseline,
        tokenizer=tokenizer,
        options={"readout": readout, "grid": grid, "prefix_tokens": prefix_tokens},
        batch_size=internal_batch_size,
    )
    predictions = _predictions(model, output, labels, multilabel)
    return Comparison(
        results=tuple(_result(contender, case, scores or {}, memory, repeats) for contender in contenders),
        targets=_targets(case, predictions),
        predictions=predictions,
        modality="image" if case.is_image else "text",
        baseline=case.baseline_name,
        n_threads=torch.get_num_threads(),
        versions=library_versions(),
        **shown,
    )


def _result(contender: Contender, case: Case, scores: Mapping[str, Score], memory: bool, repeats: int) -> MethodResult:
    """Run one method; whatever goes wrong is written down."""
    with _seeded(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run, tone = contender.prepare(case)
            found = min((measure(run, case.model) for _ in range(max(1, repeats))), key=lambda one: one.seconds)
            relevance, full = case.common_map(found.value)
        except Exception as error:
            return MethodResult(contender.label, contender.source, _said(error), notes=_notes(caught))
        values, failed = _scored(scores, case, relevance)
        peak = peak_memory(run) if memory else None
    return MethodResult(
        contender.label,
        contender.source,
        tone=tone or ("signed" if (relevance < 0).any() else "size"),
        relevance=relevance,
        full=full,
        seconds=found.seconds,
        cpu_seconds=found.cpu_seconds,
        peak_memory=peak,
        scores=values,
        notes=(*_notes(caught), *failed),
        **vars(found.passes),
    )


def _scored(scores: Mapping[str, Score], case: Case, relevance: Tensor) -> tuple[dict[str, list[float]], list[str]]:
    values, failed = {}, []
    for name, score in scores.items():
        try:
            given = score(
                case.model,
                case.inputs,
                relevance.to(case.inputs.device),
                target=case.target,
                forward_kwargs=case.keywords,
            )
            values[name] = torch.as_tensor(given).detach().double().reshape(-1).tolist()
        except Exception as error:
            failed.append(f"score {name}: {_said(error)}")
    return values, failed


@contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers for every method, and the caller's afterwards."""
    state = np.random.get_state()  # what Captum draws from
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(state)


def _said(error: Exception) -> str:
    """An error in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _notes(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Warnings in a line each, without what Captum says about its own preparations."""
    said = (f"{one.category.__name__}: {' '.join(str(one.message).split())}" for one in caught)
    return tuple(dict.fromkeys(line for line in said if "did not already require gradients" not in line))


def _read(
    model: nn.Module, inputs: Any, tokenizer: Any, processor: Any, keywords: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    """The inputs as tensors, and what is needed to show them."""
    if isinstance(inputs, str) and not names_image(inputs, processor):
        ids, found, shown = read_text(inputs, tokenizer, model)
        return (
            ids,
            {**found, **keywords},
            {"tokens": (shown["tokens"],), "words": (shown["words"],), "texts": (inputs,)},
        )
    if not isinstance(inputs, Tensor):
        image, _, shown = read_image(inputs, processor, model)
        return image, dict(keywords), {"pixels": (shown["pixels"],)}
    if inputs.dim() == 4:
        return inputs, dict(keywords), {"pixels": tuple(pixels_of(image, processor) for image in inputs)}
    if inputs.dim() not in (2, 3) or (inputs.dim() == 3) != inputs.is_floating_point():
        raise InputError(
            f"Expected token ids (B, T), images (B, C, H, W) or embeddings (B, T, D), found {inputs.dtype} "
            f"{tuple(inputs.shape)}."
        )
    return inputs, dict(keywords), {"tokens": tuple(_tokens(row, tokenizer) for row in inputs)}


def _tokens(row: Tensor, tokenizer: Any) -> tuple[TextToken, ...]:
    if row.dim() == 2:
        pieces = [str(number) for number in range(len(row))]
    elif hasattr(tokenizer, "convert_ids_to_tokens"):
        pieces = tokenizer.convert_ids_to_tokens(row.tolist())
    else:
        pieces = [str(number) for number in row.tolist()]
    return tuple(TextToken(piece, 0, 0) for piece in pieces)


def _index_of(model: nn.Module, wanted: str, labels: Sequence[str] | None) -> int:
    known = getattr(getattr(model, "config", None), "id2label", None) or {}
    names = tuple(labels) if labels is not None else tuple(known.values())
    return find_class(wanted, [Prediction(index, name, 0.0) for index, name in enumerate(names)]).index


def _predictions(
    model: nn.Module, output: Tensor, labels: Sequence[str] | None, multilabel: bool | None
) -> tuple[tuple[Prediction, ...], ...]:
    rows = output.reshape(len(output), -1)
    names = class_names(model, labels, rows.shape[1])
    return tuple(ranked_predictions(row, names, is_multilabel(model, multilabel)) for row in rows)


def _targets(case: Case, predictions: Sequence[Sequence[Prediction]]) -> tuple[Prediction, ...]:
    if case.target is None:
        return tuple(ranked[0] for ranked in predictions)
    classes = case.target.tolist()
    return tuple(find_class(index, ranked) for index, ranked in zip(classes, predictions, strict=True))
