"""A capture session: everything is put in place on entering and taken away on leaving, whatever happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from attrib_plugin.capture.checkpoints import switch_off_checkpoints
from attrib_plugin.capture.interpreter import Interpreter
from attrib_plugin.capture.kinds import is_causal_mask, kind_of
from attrib_plugin.capture.mode import AttentionMode
from attrib_plugin.capture.positions import EVAL_FIRST, NOT_FOLLOWED, PositionTracker
from attrib_plugin.capture.scope import entered, innermost, install_hooks
from attrib_plugin.capture.softmax import EagerProduct, SoftmaxTracker
from attrib_plugin.capture.state import (
    WHOLE_PROCESS,
    force_eager,
    freeze_parameters,
    installed,
    is_compiled,
    is_training,
    modules_of,
)
from attrib_plugin.errors import CaptureError, NothingCapturedError, UnsupportedAttentionError
from attrib_plugin.records import AttentionCall, TokenPlacement

if TYPE_CHECKING:
    from typing_extensions import Self

# What a session changes on a model, in this order.
_CHANGES: dict[str, Callable[..., Callable[[], None]]] = {
    "hooks": install_hooks,
    "frozen parameters": freeze_parameters,
    "checkpoints": switch_off_checkpoints,
}

# So many gradients of a sample go back at once where several scores are explained; more would only take more memory.
_SAMPLES_AT_ONCE = 10


class CaptureSession:
    """Records the attention calls that a model makes in this thread while the session is open.

    Only the innermost session of a thread records, so a session inside another takes its own calls alone.
    The model's forward must not be started in another thread.

    Args:
        model: The model, which is left as it was found: hooks, ``requires_grad``, ``.grad`` and mode.
        gradients: Whether the forward pass records a graph, so that gradients can be taken.
        interpreter: Runs the operations of the model in its own way, such as with another backward.
        follow_positions: Whether tokens are followed through windows and mergings, so that every call has a placement.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        gradients: bool = True,
        follow_positions: bool = False,
        interpreter: Interpreter | None = None,
    ) -> None:
        self.model = model
        self.module_stack: list[str] = []
        self.runs: Counter[nn.Module] = Counter()
        self.softmaxes = SoftmaxTracker()
        self.positions = PositionTracker() if follow_positions else None
        self.batch_size: int | None = None
        self.interpreter = interpreter
        # A graph that begins in a part of the model that is run again for the backward pass cannot be followed.
        self.began_in_checkpoint = False
        self._is_paused = False
        self.outputs: tuple[Tensor, ...] = ()
        self._calls: list[AttentionCall] = []
        # Where gradients are taken. Not at the output tensors, which the model may change in place later.
        self._nodes: list[GradientEdge | None] = []
        self._gradients = gradients
        self._in_training = False
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        # Walking through a large model takes longer than what is done at its modules, so it is done once.
        modules = modules_of(self.model)
        self._in_training = is_training(self.model, modules)
        with ExitStack() as stack:
            for what, change in _CHANGES.items():
                stack.enter_context(installed(self.model, what, partial(change, modules=modules)))
            if is_compiled(modules):
                stack.enter_context(installed(WHOLE_PROCESS, "eager stance", force_eager))
            stack.enter_context(entered(self))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(self._gradients))
            stack.enter_context(AttentionMode(self))
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    @property
    def calls(self) -> tuple[AttentionCall, ...]:
        """The attention calls so far, in the order in which they were made.

        Raises:
            NothingCapturedError: If there was none.
            UnsupportedAttentionError: If a softmax looks like attention but its product with values was not
                found, so that the calls may be incomplete, or if it is not known where the tokens of a call are.
        """
        if loose := self.softmaxes.loose:
            listed = ", ".join(f"{softmax.name or 'the model'} {softmax.shape}" for softmax in loose[:5])
            raise UnsupportedAttentionError(
                f"{len(loose)} softmax operations of {type(self.model).__name__} look like attention, but no "
                f"product with values follows them: {listed}. Reading only the other {len(self._calls)} calls would "
                "give a wrong map. Local, channel and low-rank attention cannot be followed from token to token."
            )
        if not self._calls:
            raise NothingCapturedError(
                f"No attention call was seen in {type(self.model).__name__}. Expected calls of "
                "scaled_dot_product_attention, nn.MultiheadAttention, or a softmax followed by a product. Was the "
                "forward pass run inside the session, in this thread, on this model object? Custom kernels "
                "(flash-attn, xformers, flex_attention, TorchScript) cannot be seen: load the model with the "
                f"'sdpa' or 'eager' attention implementation.{self.softmaxes.remark}"
            )
        if self.positions is not None and (faults := self.positions.faults):
            raise UnsupportedAttentionError(
                f"It is not known where the tokens of {len(faults)} of {len(self._calls)} attention calls of "
                f"{type(self.model).__name__} are in the image (first: {faults[0]}). "
                + (EVAL_FIRST if self._in_training else NOT_FOLLOWED)
            )
        return tuple(self._calls)

    @property
    def latest(self) -> AttentionCall | None:
        """The latest call, while the forward pass runs; it may prove to be of no use."""
        return self._calls[-1] if self._calls else None

    def output_gradients(
        self, score: Tensor, *, retain_graph: bool = False, calls: Sequence[AttentionCall] | None = None
    ) -> tuple[Tensor, ...]:
        """Gradient of a score with respect to the output of calls; one backward pass.

        Args:
            score: Scalar, or one score a sample (their sum is differentiated; samples do not mix).
            retain_graph: Whether another backward pass will follow.
            calls: Some of the calls; ``None`` is all of them.

        Returns:
            Tensors of the shapes of the outputs, in units of the score; ``.grad`` of nothing is touched.

        Raises:
            CaptureError: If the score has no graph.
            UnsupportedAttentionError: If some call is cut off from the score, by ``no_grad`` or ``detach``.
        """
        calls = self.calls if calls is None else calls
        if not score.requires_grad:
            raise CaptureError(
                "The explained score does not depend on any captured attention: its graph is missing. Expected a "
                "differentiable function of the model's output, computed inside the session, of a model without "
                "torch.no_grad or reentrant checkpoints of its own (call checkpoint(..., use_reentrant=False))."
            )
        wanted = [self._nodes[call.index] for call in calls]
        nodes = [node for node in wanted if node is not None]
        found = iter(torch.autograd.grad(score.sum(), nodes, retain_graph=retain_graph, allow_unused=True))
        gradients = [None if node is None else next(found) for node in wanted]
        cut = [call.name for call, gradient in zip(calls, gradients, strict=True) if gradient is None]
        if cut:
            raise UnsupportedAttentionError(
                f"The explained score does not depend on {len(cut)} of {len(calls)} attention calls (first: "
                f"{cut[0]!r}), so their gradient would be silently zero. Does forward use torch.no_grad, .detach(), "
                "quantised layers (use AttentionRollout, without gradients) or a branch that this output does not use?"
            )
        return tuple(gradient for gradient in gradients if gradient is not None)

    def gradients_of_scores(
        self, scores: Sequence[Tensor], *, calls: Sequence[AttentionCall]
    ) -> Iterator[tuple[Tensor, ...]]:
        """What :meth:`output_gradients` gives for each of several scores.

        Small batches go back for several scores at once, which saves some of the time; where an operation of the model
        cannot do that, one after another.

        Args:
            scores: As there.
            calls: As there.

        Yields:
            The gradients for one score after another.
        """
        step = max(1, _SAMPLES_AT_ONCE // max(1, scores[0].numel()))
        for start in range(0, len(scores), step):
            some = scores[start : start + step]
            together = self._together(some, calls) if len(some) > 1 else None
            for position, score in enumerate(some):
                if together is not None:
                    yield tuple(gradients[position] for gradients in together)
                else:
                    is_last = start + position == len(scores) - 1
                    yield self.output_gradients(score, retain_graph=not is_last, calls=calls)

    def _together(self, scores: Sequence[Tensor], calls: Sequence[AttentionCall]) -> tuple[Tensor, ...] | None:
        """Gradients with one more axis, that of the scores; ``None`` where that is not possible."""
        nodes = [node for node in (self._nodes[call.index] for call in calls) if node is not None]
        if len(nodes) < len(calls) or not all(score.requires_grad for score in scores):
            return None
        sums = torch.stack([score.sum() for score in scores])
        try:
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                sums,
                nodes,
                torch.eye(len(scores), dtype=sums.dtype, device=sums.device),
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
        except (RuntimeError, UserWarning):  # a backward pass that takes no such batch, or is slow and says so
            return None
        found = tuple(gradient for gradient in gradients if gradient is not None)
        return found if len(found) == len(nodes) else None

    @property
    def is_recording(self) -> bool:
        """Whether this session is the innermost of its thread and a module of its model is running."""
        return bool(self.module_stack) and not self._is_paused and innermost() is self

    @property
    def module_name(self) -> str:
        """Name of the innermost running module."""
        return self.module_stack[-1] if self.module_stack else ""

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one torch operation of the model, by the interpreter if there is one.

        Args:
            func: The torch function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns.
        """
        if self.interpreter is None:
            return func(*args, **kwargs)
        return self.interpreter.run(func, args, kwargs, self.module_name)

    def enter(self, module: nn.Module, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Take note that a module of the model starts.

        Args:
            module: The module.
            name: Its dotted name.
            arguments: Its positional arguments.

        Returns:
            Arguments to run it with instead, or ``None``.
        """
        self.module_stack.append(name)
        self.runs[module] += 1
        if self.interpreter is None:
            return None
        with self._unseen():
            replaced = self.interpreter.enter(module, name, arguments)
            if replaced is not None:
                self._follow(arguments[0], replaced[0])
        return replaced

    def leave(self, module: nn.Module, name: str, output: Any) -> Any:
        """Take note that a module of the model has ended.

        Args:
            module: The module.
            name: Its dotted name.
            output: What it returned.

        Returns:
            Output to go on with instead, or ``None``.
        """
        # A module that raised may have left names above its own; they are dropped with it.
        if name in self.module_stack:
            while self.module_stack.pop() != name:
                pass
        if self.interpreter is None:
            return None
        with self._unseen():
            replaced = self.interpreter.leave(module, name, output)
            if replaced is not None:
                self._follow(output, replaced)
        return replaced

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Operations in hooks are ours and none of the model's."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def _follow(self, tensor: Tensor, stand_in: Tensor) -> None:
        """What was known of a tensor holds for the one that takes its place."""
        self.softmaxes.observe(Tensor.detach, (tensor,), {}, stand_in, self.module_name)
        if self.positions is not None:
            self.positions.observe(Tensor.detach, (tensor,), {}, stand_in)

    def begin_forward(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Take the number of samples from the arguments of a forward pass of the whole model.

        Args:
            arguments: Positional arguments.
            keywords: Keyword arguments.
        """
        if self.batch_size is None:
            tensors = (a for a in (*arguments, *keywords.values()) if isinstance(a, Tensor) and a.dim() > 0)
            self.batch_size = next((len(tensor) for tensor in tensors), None)

    def end_forward(self, output: object) -> None:
        """Settle the softmaxes that the whole model returns.

        Args:
            output: What it returned.
        """
        self.softmaxes.settle_output(output)
        several = tuple(output.values()) if isinstance(output, Mapping) else output
        parts = several if isinstance(several, (tuple, list)) else (several,)
        self.outputs = tuple(part for part in parts if isinstance(part, Tensor) and part.requires_grad)

    def record_fused(self, output: Tensor, operands: tuple[Tensor, Tensor, Tensor], **ingredients: Any) -> None:
        """Record a fused attention call.

        Args:
            output: What it returned.
            operands: Queries, keys and values as the model gave them.
            ingredients: Fields of :class:`AttentionCall`.
        """
        query, key = ingredients["query"], ingredients["key"]
        looks_back = ingredients["is_causal"] or is_causal_mask(ingredients["mask"])
        kind = kind_of(self.module_name, query.shape[-2], key.shape[-2], looks_back)
        self._append(output, kind=kind, placement=self._placed(operands, output), **ingredients)

    def record_eager(self, output: Tensor, eager: EagerProduct, handed: Tensor) -> None:
        """Record an eager attention call.

        Args:
            output: What the product returned.
            eager: Its operands.
            handed: The output as the model gets it.
        """
        weights = eager.weights.detach()
        looks_back = weights.shape[-1] > 1 and not weights[..., 0, 1:].any()
        self._append(
            output,
            kind=kind_of(self.module_name, weights.shape[-2], weights.shape[-1], bool(looks_back)),
            weights=weights,
            value=eager.value.detach() if eager.product is None else None,
            product=eager.product,
            placement=self._placed((eager.value,), handed),
        )

    def node(self, call: AttentionCall) -> GradientEdge | None:
        """Where gradients with respect to the output of a call are taken.

        Args:
            call: A call of this session.

        Returns:
            The edge of the graph; ``None`` if the call was made without a graph.
        """
        return self._nodes[call.index]

    def _placed(self, operands: Sequence[Tensor], output: Tensor) -> TokenPlacement | None:
        if self.positions is None:
            return None
        return self.positions.attend(operands, output, self.module_name, self.batch_size)

    def _append(self, output: Tensor, placement: TokenPlacement | None, **fields: Any) -> None:
        self._nodes.append(get_gradient_edge(output) if output.requires_grad else None)
        n_samples = self.batch_size if placement is None else None
        self._calls.append(
            AttentionCall(
                index=len(self._calls),
                name=self.module_name,
                output=output,
                batch_size=len(output) if n_samples is None else n_samples,
                in_training=self._in_training,
                placement=placement,
                **fields,
            )
        )
