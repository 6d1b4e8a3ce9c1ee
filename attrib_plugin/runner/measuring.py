"""What a method costs: time, passes of the model, memory. All by counting; nothing is estimated."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_T = TypeVar("_T")


@dataclass
class Passes:
    """Passes of one model.

    Attributes:
        forward_calls: How often the model was called.
        forward_samples: How many samples it was given in all these calls.
        backward_calls: How often a gradient came down through its output.
    """

    forward_calls: int = 0
    forward_samples: int = 0
    backward_calls: int = 0


@dataclass(frozen=True)
class Measured(Generic[_T]):
    """What a call returned and what it cost.

    Attributes:
        value: What it returned.
        seconds: Time by the clock.
        cpu_seconds: Time of the processor, all threads of this process together.
        passes: Passes of the model.
    """

    value: _T
    seconds: float
    cpu_seconds: float
    passes: Passes


def measure(call: Callable[[], _T], model: nn.Module) -> Measured[_T]:
    """Run a call, with time and passes.

    Args:
        call: What is run.
        model: The model whose passes are counted.

    Returns:
        The result and its cost.
    """
    with counted_passes(model) as passes:
        start, cpu_start = time.perf_counter(), time.process_time()
        value = call()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Measured(value, seconds, cpu_seconds, passes)


@contextmanager
def counted_passes(model: nn.Module) -> Iterator[Passes]:
    """Count the passes of a model for the duration of the block.

    Args:
        model: The model; two hooks stand on it inside the block.

    Yields:
        The counts, growing.
    """
    passes = Passes()

    # Another thread that runs the model while the hook is taken off may call it without the keywords.
    def before(module: nn.Module, arguments: tuple[Any, ...], *keywords: Mapping[str, Any]) -> None:
        passes.forward_calls += 1
        given = _tensors((*arguments, *(value for one in keywords for value in one.values())))
        passes.forward_samples += next((len(tensor) for tensor in given if tensor.dim()), 1)

    def backward(gradient: Tensor) -> None:
        passes.backward_calls += 1

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        logits = getattr(output, "logits", None)
        returned = [logits] if isinstance(logits, Tensor) else tree_leaves(output)
        first = next((tensor for tensor in _tensors(returned) if tensor.requires_grad), None)
        if first is not None:
            first.register_hook(backward)  # type: ignore[no-untyped-call]  # torch does not annotate it

    handles = [model.register_forward_pre_hook(before, with_kwargs=True), model.register_forward_hook(after)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def peak_memory(call: Callable[[], object]) -> int | None:
    """Run a call and find how much memory its tensors took at most.

    Counted are storages that operations inside the call made, as long as they live; not what was there before, nor
    what a fused kernel takes for itself.

    Args:
        call: What is run.

    Returns:
        Bytes; ``None`` if the call does not run while its tensors are counted.
    """
    memory = _TensorMemory()
    try:
        with memory:
            call()
    except Exception:
        return None
    return memory.peak


class _TensorMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Adds up the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # What an operation is given and nobody has counted was there before: weights, inputs.
        self._note(_tensors(tree_leaves((args, kwargs))), counted=False)
        output = func(*args, **kwargs)
        self._note(_tensors(tree_leaves(output)), counted=True)
        return output

    def _note(self, tensors: Iterable[Tensor], *, counted: bool) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            place = storage._cdata
            if place in self._known:
                continue
            self._known.add(place)
            size = storage.nbytes() if counted else 0
            self._live += size
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._live -= size


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]
