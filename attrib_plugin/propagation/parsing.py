"""From a call of a torch function to the operands, the map and the options that rules read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from attrib_plugin.functional.lrp import LinearMap
from attrib_plugin.propagation.operations import AFFINE, DIFFERENCE, KIND_OF


@dataclass(frozen=True, eq=False)
class Parsed:
    """A call, understood.

    Attributes:
        kind: The kind of operation, which may be narrower than its function's (``"gate"`` for a product of two).
        operands: Tensors that take part as operands, in the order in which ``call`` takes them.
        call: Runs the operation on other operands.
        linear: Makes the linear map of the operands.
        options: Further arguments for the rule.
        leaves: Stand-ins of the operands with which it has been run already.
    """

    kind: str
    operands: tuple[Tensor, ...]
    call: Callable[..., Tensor]
    linear: Callable[[Tensor], LinearMap] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    leaves: tuple[Tensor, ...] | None = None


def parse(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Parsed | None:
    """Understand a call.

    Args:
        func: The torch function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        What it is; ``None`` for a function of no known kind.
    """
    kind = KIND_OF.get(func)
    reader = _READERS.get(kind) if kind else None
    return reader(func, tuple(args), dict(kwargs)) if reader else None


def carries(tensor: Any) -> bool:
    """Whether relevance may reach a value."""
    return isinstance(tensor, Tensor) and tensor.requires_grad


def _first(kind: str, options: Mapping[str, Any] | None = None) -> Callable[..., Parsed]:
    """An operation on its first argument; the others are constants."""

    def read(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed:
        value, args, kwargs = _take(args, kwargs)
        kwargs.pop("inplace", None)
        return Parsed(kind, (value,), lambda one: func(one, *args, **kwargs), options=options or {})

    return read


def _take(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], kwargs
    name = "input" if "input" in kwargs else "self"
    return kwargs.pop(name), args, kwargs


def _linear(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed | None:
    if func in AFFINE:
        return _affine(func, args, kwargs)
    value, weight, bias = _named(args, kwargs, "input", "weight", "bias")
    if carries(weight):
        return Parsed("product", (value, weight), lambda one, other: func(one, other, bias))
    return Parsed(
        "linear",
        (value,),
        lambda one: func(one, weight, bias),
        lambda one: LinearMap.dense(weight),
        {"bias": bias},
    )


def _affine(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed | None:
    bias, value, weight, beta, alpha = _named(args, kwargs, "input", "mat1", "mat2", "beta", "alpha")
    if beta not in (None, 1) or alpha not in (None, 1):
        return None
    if carries(weight):
        return Parsed("product", (value, weight), lambda one, other: func(bias, one, other))
    return Parsed(
        "linear",
        (value,),
        lambda one: func(bias, one, weight),
        lambda one: LinearMap(weight, lambda x, w: x @ w, lambda message, w: message @ w.mT, by_row=True),
        {"bias": bias},
    )


def _convolution(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    value, weight, bias, *rest = _named(args, kwargs, *names)
    settings = {name: one for name, one in zip(names[3:], rest, strict=True) if one is not None}
    shaped = None if bias is None else bias.reshape(-1, *(1,) * (weight.dim() - 2))
    return Parsed(
        "convolution",
        (value,),
        lambda one: func(one, weight, bias, **settings),
        lambda one: _by_gradient(one, weight, lambda x, w: func(x, w, None, **settings)),
        {"bias": shaped},
    )


def _by_gradient(like: Tensor, weight: Tensor, transform: Callable[[Tensor, Tensor], Tensor]) -> LinearMap:
    """A linear map whose transpose is taken by differentiation."""

    def transpose(message: Tensor, w: Tensor) -> Tensor:
        with torch.enable_grad():
            probe = torch.zeros_like(like).requires_grad_()
            return torch.autograd.grad(transform(probe, w), probe, message)[0]

    return LinearMap(weight, transform, transpose)


def _product(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed | None:
    head: tuple[Any, ...] = ()
    if func is torch.einsum:
        head, args = args[:1], tuple(args[1]) if isinstance(args[1], (list, tuple)) else args[1:]
        if len(args) != 2:
            return None
        first, second = args
    else:
        names = ("input", "mat2" if "mat2" in kwargs else "other")
        first, second = _named(args, {key: one for key, one in kwargs.items() if key != "out"}, *names)

    def call(one: Tensor, other: Tensor) -> Tensor:
        result: Tensor = func(*head, one, other)
        return result

    if _is_activation(first) and _is_activation(second):
        return Parsed("product", (first, second), call)
    if carries(first):
        return Parsed("linear", (first,), lambda one: call(one, second), lambda one: _by_gradient(one, second, call))
    return Parsed(
        "linear",
        (second,),
        lambda one: call(first, one),
        lambda one: _by_gradient(one, first, lambda x, w: call(w, x)),
    )


def _is_activation(operand: Tensor) -> bool:
    """Whether an operand of a product is made from tokens or queries, even if it is a constant for relevance."""
    return carries(operand) or (operand.dim() > 2 and not isinstance(operand, nn.Parameter))


def _sum(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed:
    first, second, alpha = _named(args, kwargs, "input", "other", "alpha")
    factors = _factors(func, 1 if alpha is None else alpha)
    options = {} if alpha is None else {"alpha": alpha}

    def summands(one: Any, other: Any) -> tuple[Any, Any]:
        return _times(one, factors[0]), _times(other, factors[1])

    def call(one: Any, other: Any) -> Tensor:
        result: Tensor = func(one, other, **options)
        return result

    if carries(first) and carries(second):
        return Parsed("sum", (first, second), call, options={"summands": summands})
    position = 0 if carries(first) else 1
    value, constant = (first, second) if position == 0 else (second, first)
    # The model computes with the constant as it gave it; rules want a tensor, and no infinite ones (masks).
    finite = (
        constant if isinstance(constant, Tensor) else torch.as_tensor(constant, dtype=value.dtype, device=value.device)
    )
    finite = torch.nan_to_num(finite) if finite.is_floating_point() else finite
    return Parsed(
        "bias" if _is_bias(value, constant) else "sum",
        (value,),
        lambda one: call(one, constant) if position == 0 else call(constant, one),
        options={
            "summands": lambda one: summands(one, finite) if position == 0 else summands(finite, one),
            "position": position,
        },
    )


def _is_bias(value: Tensor, constant: Any) -> bool:
    """Whether a constant is a bias, mask or position, and not tokens that relevance happens not to reach."""
    is_score = value.dim() > 3
    return is_score or not isinstance(constant, Tensor) or constant.dim() < 2 or isinstance(constant, nn.Parameter)


def _factors(func: Callable[..., Any], alpha: Any) -> tuple[Any, Any]:
    """Factors of the two arguments of a sum or difference."""
    if func not in DIFFERENCE:
        return 1, alpha
    return (-alpha, 1) if "rsub" in getattr(func, "__name__", "") else (1, -alpha)


def _times(part: Any, factor: Any) -> Any:
    return part if factor == 1 else part * factor


def _scaling(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed | None:
    name = getattr(func, "__name__", "")
    if "neg" in name:
        return _first("scaling")(func, args, kwargs)
    first, second, rounding = _named(args, kwargs, "input", "other", "rounding_mode")
    if rounding is not None:
        return None
    is_quotient = "div" in name
    if carries(first) and carries(second):
        # A quotient of two relevant tensors is a normalisation, for which there is no rule.
        return None if is_quotient else Parsed("gate", (first, second), func)
    if carries(first):
        return Parsed("scaling", (first,), lambda one: func(one, second))
    return None if is_quotient else Parsed("scaling", (second,), lambda one: func(first, one))


def _norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed:
    name = getattr(func, "__name__", "")
    if name not in ("layer_norm", "rms_norm"):
        kind = {"batch_norm": "batch norm", "normalize": "norm"}.get(name, "group norm")
        return replace(_first(kind)(func, args, kwargs), options={"centred": False})
    names = ("input", "normalized_shape", "weight", *(("bias",) if name == "layer_norm" else ()), "eps")
    given = dict(zip(names, _named(args, kwargs, *names), strict=True))
    value, shape = given.pop("input"), given.pop("normalized_shape")
    settings = {key: one for key, one in given.items() if one is not None}
    eps = settings.get("eps", 1e-5 if name == "layer_norm" else torch.finfo(value.dtype).eps)
    options = {
        "weight": settings.get("weight"),
        "axes": tuple(range(-len(tuple(shape)), 0)),
        "eps": eps,
        "centred": name == "layer_norm",
    }
    return Parsed("norm", (value,), lambda one: func(one, shape, **settings), options=options)


_OTHER_NORMS: dict[str, Callable[..., Parsed]] = {
    "batch_norm": _first("batch norm"),
    "group_norm": _first("group norm"),
    "instance_norm": _first("group norm"),
    # A vector divided by its length: a norm without mean, weight or bias.
    "normalize": _first("norm", {"centred": False}),
}


def _mean(kind: str) -> Callable[..., Parsed]:
    def read(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed:
        value, args, kwargs = _take(args, kwargs)
        axes: Any = None
        if "pool" not in getattr(func, "__name__", ""):
            axes = kwargs.get("dim", kwargs.get("axis", args[0] if args else None))
            axes = tuple(range(value.dim())) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
        return Parsed(kind, (value,), lambda one: func(one, *args, **kwargs), options={"axes": axes})

    return read


def _attention(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    query, key, value, mask, dropout, causal, scale, gqa = _named(args, kwargs, *names)
    settings: dict[str, Any] = {"attn_mask": mask, "dropout_p": dropout or 0.0, "is_causal": bool(causal)}
    settings |= {} if scale is None else {"scale": scale}
    settings |= {"enable_gqa": True} if gqa else {}
    if hasattr(mask, "_materialize"):
        mask = mask._materialize(query.device)
    return Parsed(
        "attention",
        (query, key, value),
        lambda q, k, v: func(q, k, v, **settings),
        options={"mask": mask, "is_causal": bool(causal), "scale": scale},
    )


def _named(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> list[Any]:
    given = dict(zip(names, args, strict=False)) | kwargs
    if "self" in given:
        given["input"] = given.pop("self")
    return [given.get(name) for name in names]


_READERS: dict[str, Callable[..., Parsed | None]] = {
    "linear": _linear,
    "convolution": _convolution,
    "attention": _attention,
    "product": _product,
    "sum": _sum,
    "scaling": _scaling,
    "activation": _first("activation"),
    "norm": _norm,
    "softmax": _first("softmax"),
    "mean": _mean("mean"),
    "total": _mean("total"),
}
