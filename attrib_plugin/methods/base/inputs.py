"""The arguments of ``attribute``: checked before the model is run, cut into batches, and handed to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor, nn

from attrib_plugin.errors import InputError, UnsupportedAttentionError
from attrib_plugin.families import Member
from attrib_plugin.functional.choices import whole_number
from attrib_plugin.methods.base.calling import check_call, parameters_of, unwrapped
from attrib_plugin.methods.base.keywords import check_keyword_values, checked_keywords

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One checked set of arguments.

    Attributes:
        tensor: Token ids (B,T), an image batch (B,C,H,W) or embeddings (B,T,D).
        in_tuple: Whether the caller passed a tuple, and so gets one back.
        arguments: Further positional arguments of the forward function.
        keywords: Keyword arguments of the forward function.
        as_embeddings: Whether the tensor is passed as ``inputs_embeds``.
        keeps_graph: Whether the tensor is handed to the model with its graph.
    """

    tensor: Tensor
    in_tuple: bool = False
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    as_embeddings: bool = False
    keeps_graph: bool = False

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return len(self.tensor)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of images; ``None`` for text."""
        return (self.tensor.shape[-2], self.tensor.shape[-1]) if self.tensor.dim() == 4 else None

    @property
    def n_text_tokens(self) -> int | None:
        """Number of text tokens; ``None`` for images."""
        return None if self.tensor.dim() == 4 else self.tensor.shape[1]

    def call(self, forward_func: Callable[..., Any]) -> Any:
        """Run the model once.

        Args:
            forward_func: The model, or a function around it.

        Returns:
            Whatever it returns.
        """
        positional, by_name = self.passed
        return forward_func(*positional, **by_name)

    @property
    def passed(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional arguments and keyword arguments of the call."""
        tensor = self.tensor if self.keeps_graph else self.tensor.detach()
        if self.as_embeddings:
            return (None, *self.arguments), {"inputs_embeds": tensor, **self.keywords}
        return (tensor, *self.arguments), dict(self.keywords)

    def batches(self, size: int | None) -> Iterator[tuple[slice, ModelInput]]:
        """Cut into smaller batches.

        Args:
            size: Largest number of samples run at once; ``None`` is all.

        Yields:
            Which samples, and their arguments.
        """
        step = self.batch_size if size is None else size
        for start in range(0, self.batch_size, step):
            part = slice(start, min(start + step, self.batch_size))
            if part == slice(0, self.batch_size):
                yield part, self
                continue
            cut = self._cut(part)
            yield (
                part,
                replace(
                    self,
                    tensor=self.tensor[part],
                    arguments=tuple(map(cut, self.arguments)),
                    keywords={name: cut(value) for name, value in self.keywords.items()},
                ),
            )

    def _cut(self, part: slice) -> Callable[[Any], Any]:
        def cut(value: Any) -> Any:
            per_sample = isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.batch_size
            return value[part] if per_sample else value

        return cut


def check_input(
    inputs: Any,
    additional_forward_args: Any,
    forward_kwargs: Mapping[str, Any] | None,
    forward_func: Callable[..., Any] | None,
    member: Member,
) -> ModelInput:
    """Check the arguments of ``attribute`` before the model is run.

    Args:
        inputs: A tensor, or a tuple that holds one.
        additional_forward_args: Captum's positional arguments.
        forward_kwargs: Keyword arguments.
        forward_func: What will be called; ``None`` if that is not called with these arguments alone.
        member: The recognised model.

    Returns:
        The arguments, checked.

    Raises:
        InputError: If a shape, dtype, value or keyword cannot be right.
        UnsupportedAttentionError: If the family knows that the model cannot be followed from token to token.
    """
    if (reason := member.family.refusal(member.module)) is not None:
        raise UnsupportedAttentionError(f"{type(member.module).__name__} cannot be explained: {reason}")
    tensor = _only_tensor(inputs)
    _check_values(tensor)
    keywords = checked_keywords(forward_kwargs)
    _check_against_model(tensor, keywords, member)
    check_keyword_values(keywords, tensor, member)
    by_name = forward_func is not None and _takes_embeddings(forward_func)
    given = ModelInput(
        tensor=tensor,
        in_tuple=isinstance(inputs, tuple),
        arguments=_format_additional_forward_args(additional_forward_args) or (),
        keywords=keywords,
        as_embeddings=tensor.is_floating_point() and tensor.dim() == 3 and by_name,
    )
    if forward_func is not None:
        check_call(forward_func, member.module, *given.passed)
    return given


def checked_place(grid: Any, prefix_tokens: Any) -> tuple[tuple[int, int] | None, int | None]:
    """Check the user's patch grid and number of prefix tokens.

    Args:
        grid: Rows and columns.
        prefix_tokens: Tokens before the patches.

    Returns:
        Both.

    Raises:
        InputError: If one is no count.
    """
    place: tuple[int, int] | None = None
    if grid is not None:
        sizes = [whole_number(size) or 0 for size in grid] if isinstance(grid, (tuple, list)) else []
        if len(sizes) != 2 or min(sizes) < 1:
            raise InputError(f"grid must be (rows, columns) of patches, two whole numbers above 0, not {grid!r}.")
        place = (sizes[0], sizes[1])
    if prefix_tokens is not None:
        count = whole_number(prefix_tokens)
        if count is None or count < 0:
            raise InputError(f"prefix_tokens must be a whole number of at least 0, not {prefix_tokens!r}.")
    return place, prefix_tokens


def cut_target(target: Any, part: slice, batch_size: int) -> Any:
    """The targets of some samples.

    Args:
        target: Any of Captum's targets.
        part: Which samples.
        batch_size: Number of all samples.

    Returns:
        The same target if it holds for all samples, else its part.
    """
    per_sample = isinstance(target, list) or (isinstance(target, Tensor) and target.dim() == 1 and len(target) > 1)
    return target[part] if per_sample and len(target) == batch_size else target


def _only_tensor(inputs: Any) -> Tensor:
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise InputError(
                f"Expected a tensor or a tuple with one tensor, found a tuple of {len(inputs)}. Give masks and other "
                "arguments as additional_forward_args or forward_kwargs."
            )
        inputs = inputs[0]
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"Expected inputs to be a tensor or a tuple with one tensor, found {type(inputs).__name__}. Give token ids "
            "(B, T), images (B, C, H, W) or embeddings (B, T, D)."
        )
    return inputs


def _check_values(tensor: Tensor) -> None:
    shape = tuple(tensor.shape)
    is_ids = tensor.dtype in _INTEGERS and tensor.dim() == 2
    if not is_ids and not (tensor.is_floating_point() and tensor.dim() in (3, 4)):
        raise InputError(
            f"Expected token ids (B, T) of an integer dtype, images (B, C, H, W) or embeddings (B, T, D) of a floating "
            f"dtype, found {tensor.dtype} {shape}."
        )
    if tensor.layout is not torch.strided:
        raise InputError(f"Expected a dense tensor, found one of layout {tensor.layout}: give inputs.to_dense().")
    if tensor.is_meta:
        raise InputError(f"The input is on the meta device, where tensors have no values: {shape}.")
    if tensor.numel() == 0:
        raise InputError(f"The input {shape} is empty: there is no sample or no token to explain.")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise InputError(f"The input {shape} holds NaN or infinite values.")


def _check_against_model(tensor: Tensor, keywords: Mapping[str, Any], member: Member) -> None:
    family, module = member.family, member.module
    if tensor.dim() == 4:
        if family.modality == "text":
            raise InputError(
                f"{type(module).__name__} reads text, but the input is an image batch {tuple(tensor.shape)}."
            )
        _check_image(tensor, keywords, member)
        return
    if family.modality == "image":
        raise InputError(f"{type(module).__name__} takes images (B, C, H, W), found {tuple(tensor.shape)}.")
    longest = family.max_tokens(module)
    if longest is not None and tensor.shape[1] > longest:
        raise InputError(
            f"{type(module).__name__} takes at most {longest} tokens, found {tensor.shape[1]}. Truncate the text."
        )
    if tensor.dim() == 2:
        check_ids(tensor, module)
    elif (width := getattr(_embedding_of(module), "embedding_dim", tensor.shape[2])) != tensor.shape[2]:
        raise InputError(
            f"{type(module).__name__} takes embeddings of {width} dimensions, found {tensor.shape[2]}. They are what "
            "model.get_input_embeddings()(ids) gives."
        )


def _check_image(images: Tensor, keywords: Mapping[str, Any], member: Member) -> None:
    family, module, name = member.family, member.module, type(member.module).__name__
    height, width = images.shape[-2:]
    remedy = "Resize them with the model's own processor or transform."
    size = family.image_size(module)
    if size is not None and (height, width) != size and not keywords.get("interpolate_pos_encoding"):
        raise InputError(f"{name} takes images of {size[0]} x {size[1]} pixels, found {height} x {width}. {remedy}")
    least = family.smallest_image(module)
    if least is not None and (height < least[0] or width < least[1]):
        raise InputError(
            f"{name} takes images of at least {least[0]} x {least[1]} pixels, whose last stage still holds one window, "
            f"found {height} x {width}. {remedy}"
        )
    patch = family.patch_size(module)
    if patch is not None and family.whole_patches(module) and (height % patch[0] or width % patch[1]):
        raise InputError(
            f"{name} takes images of whole patches of {patch[0]} x {patch[1]} pixels, found {height} x {width}. "
            f"{remedy}"
        )
    if family.patch_grid is not None and 0 in family.patch_grid(module, height, width):
        raise InputError(f"The images of {height} x {width} pixels are smaller than one patch of {name}. {remedy}")
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = getattr(module, "in_chans", getattr(first, "in_channels", None))
    if family.modality == "image" and channels is not None and images.shape[1] != channels:
        raise InputError(f"{name} takes images of {channels} channels, found {images.shape[1]}.")


def check_ids(ids: Tensor, module: nn.Module) -> None:
    """Check that token ids are in the vocabulary.

    Args:
        ids: Token ids.
        module: The model that reads them.

    Raises:
        InputError: If some id is not.
    """
    limit = getattr(_embedding_of(module), "num_embeddings", None)
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or (limit is not None and highest >= limit):
        wrong = lowest if lowest < 0 else highest
        raise InputError(
            f"Token id {wrong} is outside the vocabulary of {limit or 'the model'} ids. Was the text encoded with "
            "another model's tokenizer?"
        )


def _embedding_of(module: nn.Module) -> nn.Module | None:
    find = getattr(module, "get_input_embeddings", None)
    try:
        return find() if callable(find) else None
    except NotImplementedError:  # transformers does not know where some of its models keep them
        return None


def _takes_embeddings(forward_func: Callable[..., Any]) -> bool:
    return "inputs_embeds" in (parameters_of(unwrapped(forward_func)) or ())
