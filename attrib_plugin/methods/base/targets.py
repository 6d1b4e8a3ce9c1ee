"""From the model's output to the score that is explained, with Captum's targets and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from captum._utils.common import _select_targets
from torch import Tensor

from attrib_plugin.errors import AttributionError, InputError, TargetError

Target = Any
"""Captum's targets: ``None``, int, tuple of ints, tensor, list of ints, list of tuples."""


def check_targets(targets: Any) -> None:
    """Check that several targets are several.

    Args:
        targets: What the user gave for them.

    Raises:
        InputError: If there is none, or they are no sequence.
    """
    if not isinstance(targets, (Sequence, Tensor)) or (isinstance(targets, Tensor) and targets.dim() == 0):
        raise InputError(f"Expected a sequence of targets, found {targets!r}. One target is for attribute().")
    if len(targets) == 0:
        raise InputError("Expected at least one target, found none.")


def unwrap_output(output: Any) -> Tensor:
    """The tensor of scores in what a model returned.

    Args:
        output: A tensor, a transformers output, a mapping or a sequence of tensors.

    Returns:
        ``output.logits`` if there is one, else the first floating tensor.

    Raises:
        AttributionError: If there is no floating tensor, it has no batch axis, no values, or it is not finite.
    """
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor):
        parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
        scores = next((part for part in parts if isinstance(part, Tensor) and part.is_floating_point()), None)
    if scores is None or not scores.is_floating_point() or scores.dim() == 0:
        raise AttributionError(
            f"Expected the model to return floating scores with a batch axis, found {_described(output)}. Wrap the "
            "model in a function that returns them and name the module: Method(function, model=module)."
        )
    if scores.is_meta:
        raise AttributionError("The model is on the meta device, where tensors have no values: load its weights first.")
    if not torch.isfinite(scores).all():
        raise AttributionError("The model's output has NaN or infinite values, so there is no score to explain.")
    return scores


def select_score(output: Tensor, target: Target) -> Tensor:
    """The score of every sample that is explained.

    Args:
        output: Scores, batch first.
        target: One of Captum's targets; ``None`` is the predicted class of ``(batch, class)`` scores, or the
            value itself where there is one for each sample.

    Returns:
        One score a sample.

    Raises:
        TargetError: If the target does not select one score a sample.
    """
    if target is None:
        return _predicted(output)
    _check(target, output)
    if isinstance(target, Tensor):
        target = target.to(output.device)
    try:
        score: Tensor = _select_targets(output, target)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise TargetError(
            f"Target {_shown(target)} does not fit the model's output of shape {tuple(output.shape)}: "
            f"{str(error).rstrip('.!')}. "
            "Expected an int, a tuple of ints, a tensor or list with one int for each sample, or a list of tuples."
        ) from error
    if score.numel() != len(output):
        raise TargetError(
            f"Target {_shown(target)} selects {tuple(score.shape)} of the output {tuple(output.shape)}: Target not "
            "provided when necessary, cannot take gradient with respect to multiple outputs. Give a tuple with one "
            "index for every axis after the batch."
        )
    return score.reshape(len(output))


def predicted_classes(output: Tensor) -> Tensor | None:
    """The class that ``target=None`` explains.

    Args:
        output: Scores, batch first.

    Returns:
        Index of the highest score of every sample; ``None`` where there is one value a sample.

    Raises:
        TargetError: If scores have more axes.
    """
    if output[0].numel() == 1:
        return None
    if output.dim() != 2:
        raise TargetError(
            f"Target not provided when necessary: the output has shape {tuple(output.shape)}. Give a tuple with one "
            "index for every axis after the batch."
        )
    return output.detach().argmax(-1)


def target_positions(target: Target, batch_size: int) -> Tensor | None:
    """The token positions that a target of a model with one output a token names.

    Args:
        target: A tuple (position, class), or a list of them.
        batch_size: Number of samples.

    Returns:
        One position a sample; ``None`` if the target names none.
    """
    if isinstance(target, tuple):
        return torch.full((batch_size,), int(target[0]))
    if isinstance(target, list) and target and all(isinstance(one, tuple) for one in target):
        return torch.tensor([int(one[0]) for one in target])
    return None


def predicted_tokens(output: Tensor, padding: Tensor | None) -> Tensor:
    """The token that ``target=None`` explains where scores are one a token.

    Args:
        output: Scores, ``batch token``.
        padding: True at padding; ``None`` when every token is real.

    Returns:
        Position of the highest score of every sample, padding left aside.
    """
    scores = output.detach()
    return (scores if padding is None else scores.masked_fill(padding, -torch.inf)).argmax(-1)


def token_targets(target: Target, batch_size: int) -> Tensor | None:
    """The token positions that a target names where scores are ``batch token``.

    Args:
        target: An int or a tuple with one, a tensor, a list of ints, or a list of tuples with one each.
        batch_size: Number of samples.

    Returns:
        One position a sample; ``None`` without a target.

    Raises:
        TargetError: If the target names anything else.
    """
    if target is None:
        return None
    try:
        positions = torch.as_tensor(target).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"Expected token positions as the target, found {_shown(target)}: {error}.") from error
    if positions.dtype not in (torch.int64, torch.int32, torch.int16) or len(positions) not in (1, batch_size):
        raise TargetError(
            f"Expected one token position for each of {batch_size} samples as the target, found {_shown(target)}."
        )
    return positions.expand(batch_size) if len(positions) == 1 else positions


def _predicted(output: Tensor) -> Tensor:
    classes = predicted_classes(output)
    return output.reshape(len(output)) if classes is None else output.gather(1, classes[:, None]).squeeze(1)


def _check(target: Target, output: Tensor) -> None:
    values = target.flatten().tolist() if isinstance(target, Tensor) else target
    flat = values if isinstance(values, (list, tuple)) else [values]
    if any(isinstance(value, bool) for value in flat):
        raise TargetError(f"A target must be an int, not a bool: {_shown(target)}.")
    # torch.gather reads out of bounds targets as another sample's memory on some devices, so they are checked here.
    classes = [value for value in flat if isinstance(value, int)]
    if output.dim() == 2 and not isinstance(target, tuple):
        limit = output.shape[1]
        lowest = 0 if isinstance(target, (list, Tensor)) else -limit
        if any(not lowest <= value < limit for value in classes):
            raise TargetError(
                f"Target {_shown(target)} is out of range: the model has {limit} classes, 0 to {limit - 1}."
            )


def _shown(target: Target) -> str:
    shown = repr(target.tolist() if isinstance(target, Tensor) else target)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _described(output: Any) -> str:
    return f"a {output.dtype} tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
