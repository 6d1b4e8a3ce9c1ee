"""Which torch functions are which kind of operation, as relevance sees them.

A *routing* function moves, selects, repeats or joins values without changing them: the ordinary gradient is already the
right way for relevance. Every other function that relevance passes through has a kind, and a composite has a rule for
each kind that it supports. A function of no kind is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[..., Any]


def _named(*names: str) -> set[Function]:
    """Every function of torch that bears one of the names, as function, method or operator."""
    places = (torch, Tensor, F, torch._C._nn, torch.special)
    found = (getattr(place, name, None) for name in names for place in places)
    return {function for function in found if function is not None}


def _properties(*names: str) -> set[Function]:
    """What torch calls to read properties of a tensor."""
    return {getattr(Tensor, name).__get__ for name in names}


ROUTING = _named(
    "view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "transpose",
    "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "contiguous", "clone", "detach", "expand",
    "expand_as", "repeat", "repeat_interleave", "tile", "broadcast_to", "select", "narrow", "split", "chunk", "unbind",
    "tensor_split", "split_with_sizes", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "roll", "flip",
    "gather", "index_select", "take_along_dim", "masked_fill", "masked_select", "where", "pad", "to", "type",
    "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "dropout", "alpha_dropout", "feature_dropout",
    "unfold", "tril", "triu", "diagonal", "rot90", "pixel_shuffle", "pixel_unshuffle", "nan_to_num", "requires_grad_",
    "masked_scatter", "max_pool1d", "max_pool2d", "amax", "alias", "identity", "positive", "zero_pad2d",
    "embedding", "as_subclass", "view_copy",
) | _properties("T", "mT", "H", "mH")  # fmt: skip

CUTS = _named("detach", "detach_") | _properties("data")
"""Functions whose result has the values of their argument but not its graph."""

FRESH = _named(
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_empty", "new_full", "new_tensor",
)  # fmt: skip
"""Functions that read no values of their argument."""

OVERWRITING = {Tensor.__setitem__} | _named(
    "copy_", "fill_", "zero_", "masked_fill_", "masked_scatter_", "index_copy_", "index_fill_",
)  # fmt: skip
"""Functions that put other values into their first argument: routing, once its old values are kept."""

PICK = {Tensor.__getitem__}
"""Indexing: routing as well, named apart because one reference treats the choice of a token as a rule."""

LINEAR: set[Function] = {F.linear, torch._C._nn.linear}
SHIFTED_PRODUCT: set[Function] = {torch.baddbmm, Tensor.baddbmm}
"""A sum and a product in one, taken apart, since they have rules of their own."""
AFFINE: set[Function] = {torch.addmm, Tensor.addmm}
CONVOLUTION = _named("conv1d", "conv2d", "conv3d")
PRODUCT = _named("matmul", "bmm", "mm", "einsum", "__matmul__", "__rmatmul__")
SUM = _named("add", "__add__", "__radd__")
DIFFERENCE = _named("sub", "subtract", "__sub__", "rsub", "__rsub__")
SCALING = _named(
    "mul", "multiply", "__mul__", "__rmul__", "div", "divide", "true_divide", "__truediv__", "neg",
    "negative", "__neg__",
)  # fmt: skip
ACTIVATION = _named(
    "gelu", "relu", "relu6", "silu", "mish", "tanh", "sigmoid", "softplus", "leaky_relu", "elu", "selu", "celu",
    "hardswish", "hardsigmoid", "hardtanh", "softsign", "logsigmoid", "erf", "clamp",
)  # fmt: skip
NORM = _named("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "normalize")
SOFTMAX = _named("softmax")
MEAN = _named("mean", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
TOTAL = _named("sum")
_ATEN_ATTENTION = torch.ops.aten.scaled_dot_product_attention
ATTENTION: set[Function] = {F.scaled_dot_product_attention, _ATEN_ATTENTION, _ATEN_ATTENTION.default}
IN_PLACE: dict[Function, Function] = {
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
    Tensor.neg_: torch.neg,
    Tensor.clamp_: torch.clamp,
    **dict.fromkeys(_named("relu_"), torch.relu),
    **dict.fromkeys(_named("sigmoid_"), torch.sigmoid),
    **dict.fromkeys(_named("tanh_"), torch.tanh),
}
"""Operations that change their first operand, as ``x += y`` does, with what they compute."""

_KINDS: tuple[tuple[str, Iterable[Function]], ...] = (
    ("linear", LINEAR | AFFINE),
    ("convolution", CONVOLUTION),
    ("attention", ATTENTION),
    ("product", PRODUCT),
    ("sum", SUM | DIFFERENCE),
    ("scaling", SCALING),
    ("activation", ACTIVATION),
    ("norm", NORM),
    ("softmax", SOFTMAX),
    ("mean", MEAN),
    ("total", TOTAL),
    ("pick", PICK),
)

KIND_OF: dict[Function, str] = {function: kind for kind, functions in _KINDS for function in functions}
"""The kind of each function that is not routing."""


def name_of(function: Function) -> str:
    """Name of a torch function, for messages.

    Args:
        function: The function.

    Returns:
        As one would write it, such as ``Tensor.exp`` or ``torch.cumsum``.
    """
    name = str(getattr(function, "__qualname__", None) or getattr(function, "__name__", function))
    return name.replace("_VariableFunctionsClass", "torch").replace("TensorBase", "Tensor")
