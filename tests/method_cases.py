"""A method on a model family, ready to be called."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from contract_methods import (
    made,
)
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin.errors import TargetIgnoredWarning

TARGETS = [1, 4, 2]


@dataclass(frozen=True)
class Case:
    """One method on one tiny model, with inputs and targets."""

    method: Any
    model: nn.Module
    inputs: Tensor
    keywords: dict[str, Tensor]
    targets: list[int] | None

    @property
    def call(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "forward_kwargs": self.keywords, "target": self.targets}

    def warning(self) -> AbstractContextManager[Any]:
        """The warning that belongs to giving a target to this method."""
        if self.method.needs_gradients:
            return nullcontext()
        return pytest.warns(TargetIgnoredWarning, match="does not depend on the class")


def make_case(
    method_name: str,
    family_name: str,
    implementation: str = "sdpa",
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float64,
) -> Case:
    model = tiny_model(family_name, implementation, dtype) if model is None else model
    method = made(method_name, model, **FAMILIES[family_name].options)
    inputs, keywords = tiny_input(family_name, dtype=dtype)
    return Case(method, model, inputs, keywords, TARGETS if method.needs_gradients else None)
