"""The score of a model for many perturbed copies of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from captum._utils.common import _format_additional_forward_args, _select_targets
from torch import Tensor

from attrib_plugin.errors import InputError, TargetError

Score = Literal["logit", "probability", "log_probability", "correct"] | Callable[[Tensor], Tensor]
"""What is read off the model's output ``(..., class)`` before the target is selected: the output itself, its softmax,
the logarithm of it, 1 where the class is the predicted one and 0 elsewhere, or any function, such as ``torch.sigmoid``
for a model with several labels."""


def unwrap(output: Any) -> Tensor:
    """The scores in what a model returned.

    Args:
        output: A tensor, or an output of transformers.

    Returns:
        ``output.logits`` if there is one.

    Raises:
        InputError: If there is no tensor.
    """
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor):
        raise InputError(
            f"Expected the model to return a tensor or an output with logits, found {type(output).__name__}. Wrap "
            "it in a function that returns the tensor of scores."
        )
    return scores


def only_tensor(value: Any, name: str) -> Tensor:
    """A tensor out of Captum's tensor or tuple of one.

    Args:
        value: What was given.
        name: Its argument, for the message.

    Returns:
        The tensor.

    Raises:
        InputError: If it is anything else.
    """
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor) or value.dim() == 0:
        raise InputError(f"Expected {name} to be a tensor or a tuple with one tensor, found {type(value).__name__}.")
    return value


def score_of_map(score: Callable[..., Tensor], *args: Any, **options: Any) -> Callable[..., Tensor]:
    """A score of the map alone in the form of those that also need the model, for ``compare(..., scores=...)``.

    For example::

        scores = {
            "SRG": partial(symmetric_relevance_gain, baselines=mean),
            "inside": score_of_map(mass_inside, masks),
        }

    Args:
        score: A function of a map, such as :func:`mass_inside` or :func:`token_f1`.
        *args: Its further arguments.
        **options: Its further named arguments.

    Returns:
        A function ``(forward_func, inputs, attributions, ...)`` that looks at ``attributions`` only.
    """

    def scored(forward_func: Any, inputs: Any, attributions: Any, *_: Any, **__: Any) -> Tensor:
        return score(attributions, *args, **options)

    return scored


class ModelScore:
    """Scores samples of a batch, whatever was done to them, with their own target and arguments.

    Args:
        forward_func: The model, or a function around it.
        inputs: The batch as it was.
        additional_forward_args: Captum's positional arguments; tensors with one row a sample follow the sample.
        forward_kwargs: The same by name.
        target: Captum's targets; ``None`` is the class predicted for the batch as it was.
        score: What is read off the output.
        batch_size: Largest number of samples of the batch run at once; ``None`` is all.

    Raises:
        InputError: If the output holds no scores.
        TargetError: If the target does not select one value a sample.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensor,
        *,
        additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
        target: Any = None,
        score: Score = "logit",
        batch_size: int | None = None,
    ) -> None:
        self._forward_func = forward_func
        self._size = len(inputs)
        self._arguments = _format_additional_forward_args(additional_forward_args) or ()
        self._keywords = dict(forward_kwargs or {})
        self._read = score if callable(score) else _transform(score)
        self._needs_classes = not callable(score) and score != "logit"
        self._target = target
        if isinstance(target, Tensor) and target.numel() not in (1, len(inputs)):
            raise TargetError(f"Expected one target, or one for each of {len(inputs)} samples, found {target.numel()}.")
        everyone = torch.arange(len(inputs), device=inputs.device)
        parts = torch.split(everyone, batch_size or len(inputs))
        output = torch.cat([self._run(inputs[part], part) for part in parts])
        if target is None and output[0].numel() > 1:
            if output.dim() != 2:
                raise TargetError(
                    f"Target not provided when necessary: the output has shape {tuple(output.shape)}. Give a tuple "
                    "with one index for every axis after the batch."
                )
            self._target = output.argmax(-1)
        self.original = self._selected(output, everyone)

    def __call__(self, inputs: Tensor, samples: Tensor) -> Tensor:
        """Score perturbed copies.

        Args:
            inputs: Copies, one a row.
            samples: Which sample of the batch each is a copy of.

        Returns:
            float64, one a copy.
        """
        return self._selected(self._run(inputs, samples), samples)

    def _run(self, inputs: Tensor, samples: Tensor) -> Tensor:
        def cut(value: Any) -> Any:
            per_sample = isinstance(value, Tensor) and value.dim() > 0 and len(value) == self._size
            return value[samples.to(value.device)] if per_sample else value

        with torch.no_grad():
            output = self._forward_func(
                inputs, *map(cut, self._arguments), **{name: cut(value) for name, value in self._keywords.items()}
            )
        scores = unwrap(output).detach()
        if scores.dim() == 0 or len(scores) != len(inputs):
            raise InputError(
                f"Expected one row of scores for each of {len(inputs)} inputs, found {tuple(scores.shape)}."
            )
        return scores

    def _selected(self, output: Tensor, samples: Tensor) -> Tensor:
        target = self._target
        if target is None:
            if self._needs_classes:
                raise InputError(
                    "The model gives one value a sample, which has no probability. Use score='logit', its own value."
                )
            return self._read(output).reshape(len(output)).double()
        if isinstance(target, Tensor) and target.numel() > 1:
            target = target[samples.to(target.device)].to(output.device)
        elif isinstance(target, list) and len(target) == self._size:
            target = [target[sample] for sample in samples.tolist()]
        try:
            chosen: Tensor = _select_targets(self._read(output), target)
        except (AssertionError, IndexError, RuntimeError, TypeError) as error:
            raise TargetError(
                f"The target does not fit the model's output of shape {tuple(output.shape)}: {error}. Expected an int, "
                "a tuple of ints, a tensor or list with one int a sample, or a list of tuples."
            ) from error
        if chosen.numel() != len(output):
            raise TargetError(f"The target selects {tuple(chosen.shape)} of the output {tuple(output.shape)}.")
        return chosen.reshape(len(output)).double()


def _identity(output: Tensor) -> Tensor:
    return output


def _correct(output: Tensor) -> Tensor:
    return torch.zeros_like(output).scatter_(-1, output.argmax(-1, keepdim=True), 1.0)


def _transform(name: str) -> Callable[[Tensor], Tensor]:
    transforms: dict[str, Callable[[Tensor], Tensor]] = {
        "logit": _identity,
        "probability": lambda output: output.double().softmax(-1),
        "log_probability": lambda output: output.double().log_softmax(-1),
        "correct": _correct,
    }
    if name not in transforms:
        raise InputError(f"score must be one of {', '.join(map(repr, transforms))} or a function, not {name!r}.")
    return transforms[name]
