"""Where tokens are: their positions, followed through a forward pass beside the tensors that hold them.

Windowed models move tokens about: they roll the grid, pad it, cut it into windows, put it together again and merge
neighbours. Instead of repeating this arithmetic for every library, the same operations are run on a tensor of
position numbers. What an operation without a rule returns has no known positions, which is an error as soon as
attention reads it; where a block adds its windows to the residual stream, the positions of both must agree.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib_plugin.records import TokenMerging, TokenPlacement

PADDING = -1
"""The position of what a model pads."""

# The same operation on the numbers says where the tokens went.
_MOVES = {
    "view", "reshape", "permute", "transpose", "swapaxes", "movedim", "flatten", "unflatten", "squeeze", "unsqueeze",
    "__getitem__", "select", "narrow", "unbind", "chunk", "split", "roll", "flip", "expand",
}  # fmt: skip
# Every token by itself, in every feature or over the features alone.
_KEEPS = {
    "add", "sub", "mul", "div", "neg", "add_", "sub_", "mul_", "div_", "contiguous", "clone", "detach", "to", "type",
    "type_as", "float", "double", "half", "bfloat16", "dropout", "dropout_", "gelu", "relu", "relu_", "silu", "sigmoid",
    "tanh", "batch_norm", "requires_grad_",
}  # fmt: skip
_NORMS = {"layer_norm", "rms_norm"}

# What a user can do about calls whose tokens are not found.
EVAL_FIRST = "The model is in training mode, where whole branches are dropped at random. Call model.eval() first."
NOT_FOLLOWED = (
    "Tokens are followed from the patch embedding through the operations that Swin models use. Explain a model with "
    "attention over all tokens, or read single windows with capture_attention(model)."
)


class Lost:
    """Stands for positions that could not be followed.

    Args:
        reason: Which operation had no rule.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason


Tag = Tensor | Lost


@dataclass(frozen=True, eq=False)
class _Step:
    """One operation on tokens whose positions are known.

    Attributes:
        name: Name of the operation.
        func: The operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        out: Its output.
        tags: Numbers of the tokens in those arguments that hold any.
        is_of_first: Whether only the first argument holds any.
    """

    name: str
    func: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any
    tags: list[Tensor]
    is_of_first: bool

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


def _move(step: _Step) -> Any:
    if not step.is_of_first or any(isinstance(argument, torch.dtype) for argument in step.args):
        return None
    # Numbers may be strided otherwise than the tokens, so they are reshaped where those are viewed.
    func = Tensor.reshape if step.name == "view" else step.func
    return func(step.tags[0], *step.args[1:], **step.kwargs)


def _join(step: _Step) -> Any:
    is_whole = bool(step.args) and len(step.tags) == len(step.args[0])
    return step.func(step.tags, *step.args[1:], **step.kwargs) if is_whole else None


def _pad(step: _Step) -> Any:
    is_constant = step.argument(2, "mode", "constant") == "constant"
    return F.pad(step.tags[0], step.argument(1, "pad"), value=PADDING) if is_constant and step.is_of_first else None


def _normalize(step: _Step) -> Any:
    return step.tags[0] if step.is_of_first and len(step.argument(1, "normalized_shape")) == 1 else None


_RULES: dict[str, Callable[[_Step], Any]] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_NORMS, _normalize),
    **dict.fromkeys(("cat", "concat"), _join),
    "pad": _pad,
}


@dataclass(frozen=True)
class _Generation:
    """The tokens between two mergings: sample b's token t has the number ``first + b * n_tokens + t``."""

    first: int
    n_tokens: int
    batch_size: int

    @property
    def end(self) -> int:
        return self.first + self.n_tokens * self.batch_size

    def numbers(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return torch.arange(self.first, self.end, dtype=torch.int32, device=device).reshape(shape)

    def of_one_sample(self, numbers: Tensor) -> Tensor | None:
        """Tokens of the first sample in ``batch ...`` numbers; ``None`` if other samples are laid out otherwise."""
        starts = torch.arange(self.batch_size, dtype=torch.int32, device=numbers.device) * self.n_tokens + self.first
        tokens = numbers - starts.reshape(-1, *(1,) * (numbers.dim() - 1))
        tokens = torch.where(numbers == PADDING, PADDING, tokens)
        inside = ((tokens >= PADDING) & (tokens < self.n_tokens)).all()
        return tokens[0] if inside and bool((tokens == tokens[:1]).all()) else None


class PositionTracker:
    """Follows tokens from the patch embedding to every attention call.

    Positions are numbered row by row where a convolution makes patches. They are numbered anew where a linear layer
    reads several tokens side by side among its features: that is a merging, and a token's share in it is the share
    of the features that it fills.
    """

    def __init__(self) -> None:
        self._faults: list[str] = []
        self._tags: dict[int, tuple[weakref.ref[Tensor], Tag]] = {}
        self._grid: tuple[int, int] = (0, 0)
        self._generation: _Generation | None = None
        self._mergings: list[TokenMerging] = []
        self._has_attended = False

    @property
    def faults(self) -> list[str]:
        """Why it is not known where all tokens are, as far as the forward pass has come."""
        merged_last = self._has_attended and self._mergings
        return [*self._faults, "tokens are merged after the last attention"] if merged_last else self._faults

    def observe(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """Follow the tokens through one operation.

        Args:
            func: The operation.
            args: Its arguments.
            kwargs: Its keyword arguments.
            out: Its output.
        """
        name = getattr(func, "__name__", "")
        if name == "conv2d" and not self._has_attended:
            self._begin(out)
            return
        tags = [tag for tensor in _tensors((*args, *kwargs.values())) if (tag := self._tag(tensor)) is not None]
        if not tags:
            return
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        lost = next((tag for tag in tags if isinstance(tag, Lost)), None)
        if lost and name in _KEEPS and any(isinstance(tag, Tensor) for tag in tags):
            self._faults.append(lost.reason)
        known = [tag for tag in tags if isinstance(tag, Tensor)]
        is_of_first = len(known) == 1 and any(self._tag(one) is known[0] for one in _tensors(args[:1]))
        moved = lost or self._moved(_Step(name, func, args, kwargs, out, known, is_of_first))
        parts = moved if isinstance(moved, (tuple, list)) else (moved,) * len(outputs)
        for output, part in zip(outputs, parts, strict=True):
            if isinstance(output, Tensor):
                fits = isinstance(part, Lost) or part.shape == output.shape
                self._set(output, part if fits else Lost(f"{name} changed the tokens in a way that has no rule"))

    def attend(
        self, operands: Sequence[Tensor], output: Tensor, name: str, n_samples: int | None = None
    ) -> TokenPlacement | None:
        """Place the tokens of an attention call, and follow them through it: every query stays where it is.

        Args:
            operands: Queries, keys and values, or the values alone.
            output: What attention returned.
            name: Module that made the call, for messages.
            n_samples: Samples that the user gave; ``None`` if that is not known.

        Returns:
            The placement; ``None`` if it is not known, and then :attr:`faults` says why.
        """
        self._has_attended = True
        tags = [self._tag(operand) for operand in operands]
        placement = self._placement(tags, output, n_samples)
        if isinstance(placement, Lost):
            self._faults.append(f"{name!r}: {placement.reason}")
            self._set(output, placement)
            return None
        self._set(output, tags[-1])
        self._mergings = []
        return placement

    def _tag(self, tensor: Tensor) -> Tag | None:
        reference, tag = self._tags.get(id(tensor), (None, None))
        return tag if reference is not None and reference() is tensor else None

    def _set(self, tensor: Tensor, tag: Tag | None) -> None:
        if tag is not None:
            key = id(tensor)
            self._tags[key] = (weakref.ref(tensor, lambda _: self._tags.pop(key, None)), tag)

    def _begin(self, patches: Tensor) -> None:
        batch_size, _, rows, columns = patches.shape
        first = 0 if self._generation is None else self._generation.end
        self._generation = _Generation(first, rows * columns, batch_size)
        self._grid = (rows, columns)
        self._mergings = []
        numbers = self._generation.numbers((batch_size, 1, rows, columns), patches.device)
        self._set(patches, numbers.expand_as(patches))

    def _moved(self, step: _Step) -> Any:
        if step.name in _KEEPS:
            first, *others = step.tags
            if all(tag is first or torch.equal(tag, first) for tag in others):
                return first
            self._faults.append(f"{step.name} joins tokens of different positions")
            return Lost(self._faults[-1])
        if step.name == "linear" and step.is_of_first:
            (source,) = step.tags
            is_constant = source.stride(-1) == 0 or bool((source == source[..., :1]).all())
            return source[..., :1].expand(step.out.shape) if is_constant else self._merged(source, step.out)
        rule = _RULES.get(step.name)
        moved = rule(step) if rule else None
        return Lost(f"{step.name} has no rule") if moved is None else moved

    def _merged(self, numbers: Tensor, out: Tensor) -> Tag:
        generation = self._generation
        if generation is None or len(numbers) != generation.batch_size:
            return Lost("a merging of tokens has no axis for samples")
        by_token = numbers.reshape(generation.batch_size, -1, numbers.shape[-1])
        tokens = generation.of_one_sample(by_token)
        if tokens is None or not (tokens != PADDING).any(-1).all():
            return Lost("a merging reads tokens of other samples, of an earlier merging or padding alone")
        self._mergings.append(_merging(tokens.long(), generation.n_tokens))
        self._generation = _Generation(generation.end, by_token.shape[1], generation.batch_size)
        return self._generation.numbers((*out.shape[:-1], 1), out.device).expand(out.shape)

    def _placement(self, tags: Sequence[Tag | None], output: Tensor, n_samples: int | None) -> TokenPlacement | Lost:
        numbers = tags[-1]
        if isinstance(numbers, Lost):
            return numbers
        generation = self._generation
        if numbers is None or generation is None:
            return Lost("its values do not come from the patches of the image")
        if reason := _misfit(numbers, tags[:-1], output, n_samples, generation.batch_size):
            return Lost(reason)
        slots = numbers[:, 0, :, 0]
        windows = generation.of_one_sample(slots.reshape(generation.batch_size, -1, slots.shape[-1]))
        if windows is None:
            return Lost("its windows are not those of one sample after another")
        if not torch.equal(windows[windows != PADDING].sort().values, _all_tokens(generation, windows)):
            return Lost("its windows overlap, or leave tokens out")
        return TokenPlacement(windows.long(), generation.n_tokens, self._grid, tuple(self._mergings))


def _merging(tokens: Tensor, n_below: int) -> TokenMerging:
    """The tokens among every row's features, each once, with the share of the features that it fills."""
    ordered = tokens.sort(-1).values
    steps = F.pad(ordered.diff(dim=-1) != 0, (1, 0))
    parts = steps.cumsum(-1)
    shape = (len(tokens), int(parts.max()) + 1)
    sources = torch.full(shape, PADDING, device=tokens.device).scatter_(1, parts, ordered)
    filled = (ordered != PADDING).to(torch.float64)
    counts = torch.zeros(shape, dtype=torch.float64, device=tokens.device).scatter_add_(1, parts, filled)
    return TokenMerging(sources, counts / counts.sum(-1, keepdim=True), n_below)


def _misfit(
    numbers: Tensor, others: Sequence[Tag | None], output: Tensor, n_samples: int | None, batch_size: int
) -> str | None:
    """Why numbers of values cannot be those of windows of samples; ``None`` if they can."""
    if batch_size != (n_samples or batch_size):
        return f"the model makes patches of {batch_size} images from {n_samples} samples"
    if numbers.dim() != 4 or numbers.shape != output.shape or len(numbers) % batch_size:
        return f"its shape {tuple(output.shape)} is not (batch * window, head, token, dim)"
    slots = numbers[:, 0, :, 0]
    if all(_holds(tag, slots) for tag in (numbers, *others) if isinstance(tag, Tensor)):
        return None
    return "its queries, keys and values, or its heads, hold different tokens"


def _holds(numbers: Tensor, slots: Tensor) -> bool:
    """Whether ``window head slot dim`` numbers are those of the slots in every head and dimension."""
    fits = numbers.dim() == 4 and numbers.shape[0] == slots.shape[0] and numbers.shape[2] == slots.shape[1]
    return fits and bool((numbers == slots[:, None, :, None]).all())


def _all_tokens(generation: _Generation, like: Tensor) -> Tensor:
    return torch.arange(generation.n_tokens, dtype=like.dtype, device=like.device)


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (part for part in value if isinstance(part, Tensor))
