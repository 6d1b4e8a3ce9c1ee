"""Every method on a tiny model of images or texts, as Captum's own tools call it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_methods import METHODS, made
from tiny_models import tiny_input, tiny_model
from torch import Tensor, nn

CLASS_METHODS = {name: method for name, method in METHODS.items() if method.needs_gradients}
TARGETS = [1, 4]
every_method = pytest.mark.parametrize("method_name", METHODS)
every_class_method = pytest.mark.parametrize("method_name", CLASS_METHODS)


def image_case(method_name: str, batch_size: int = 2) -> tuple[Any, nn.Module, Tensor, dict[str, Any]]:
    model = tiny_model("timm_vit")
    inputs, _ = tiny_input("timm_vit", batch_size)
    target = {"target": TARGETS[:batch_size]} if method_name in CLASS_METHODS else {}
    return made(method_name, model), model, inputs, target


def text_case(method_name: str, batch_size: int = 2) -> tuple[Any, nn.Module, Tensor, Tensor, dict[str, Any]]:
    model = tiny_model("bert")
    ids, keywords = tiny_input("bert", batch_size)
    target = {"target": TARGETS[:batch_size]} if method_name in CLASS_METHODS else {}
    return made(method_name, model), model, ids, keywords["attention_mask"], target


def embed(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.get_input_embeddings()(ids)


def repeated(targets: dict[str, list[int]], times: int) -> dict[str, list[int]]:
    return {name: [one for one in values for _ in range(times)] for name, values in targets.items()}


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())
