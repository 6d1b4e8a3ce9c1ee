"""A stand-in for a device that this machine lacks: tensors that say they are elsewhere, with their data here.

What a GPU would refuse is refused here too: operations on tensors of two devices, and reading such a tensor as an
array. The stand-in answers to the name ``meta``, the one device besides the CPU that every build of torch knows; its
tensors hold values all the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

OTHER = torch.device("meta")
_FROM_DATA = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
# Indices and sources may come from the CPU on a GPU as well.
_MIXING = ("aten.copy_", "aten.index.Tensor", "aten.index_put", "aten._index_put_impl")


class Elsewhere(Tensor):
    """A tensor on the other device; ``here`` is its data."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    here: Tensor
    # Only its name is that of the device without values.
    is_meta = False

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=OTHER,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.here.data_ptr()


class _Operations(TorchDispatchMode):
    """Operations without a tensor of the other device, such as those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromData(TorchFunctionMode):
    """Functions that read Python values, which torch runs below its dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist:
            return _here(args[0]).tolist()
        if func not in _FROM_DATA:
            return func(*args, **kwargs)
        like = args[0] if func is Tensor.new_tensor else None
        device = kwargs.pop("device", OTHER if isinstance(like, Elsewhere) else None)
        if like is not None:
            made = torch.tensor(args[1], dtype=kwargs.get("dtype", like.dtype))
        else:
            made = func(*args, **kwargs)
        return made if device is None else made.to(device)


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Elsewhere) else value


def _there(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, Tensor) and not isinstance(value, Elsewhere) else value


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    strays = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim() > 0]
    if is_there and strays and not str(func).startswith(_MIXING):
        raise RuntimeError(f"Expected all tensors on one device; {func} got tensors of shapes {strays} on the CPU.")
    if kwargs.get("device") is not None:
        is_there = torch.device(kwargs["device"]) == OTHER
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if not is_there or func is torch.ops.aten._local_scalar_dense.default:
        return out
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_there, out))


def elsewhere(value: Any) -> Any:
    """Tensors, or a copy of a module, moved to the other device."""
    if not isinstance(value, nn.Module):
        return tree_map(_there, value)
    moved = copy.deepcopy(value)
    for module in moved.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved_parameter = nn.Parameter(_there(parameter.detach()), requires_grad=parameter.requires_grad)
                module._parameters[name] = moved_parameter
        for name, buffer in module._buffers.items():
            module._buffers[name] = _there(buffer)
    return moved


@contextmanager
def other_device() -> Iterator[None]:
    """While this is open, tensors can be made on, and moved to and from, the other device."""
    with _FromData(), _Operations():
        yield
