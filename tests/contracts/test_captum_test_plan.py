"""Captum's own test plan, with a configuration in its schema."""

from __future__ import annotations

import copy
import unittest
import warnings
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.attr._models.base import _get_deep_layer_name, _set_deep_layer_value
from captum.testing.attr.helpers.gen_test_utils import gen_test_name, parse_test_config
from captum.testing.helpers.basic import assertTensorTuplesAlmostEqual
from contract_methods import METHODS
from tiny_models import tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin.errors import TargetIgnoredWarning

# Captum's own test plan, driven by a configuration in its schema. Its tests are not in the wheel, its helpers are.

IMAGES = tiny_input("timm_vit", 4)[0]

IDS, MASK = tiny_input("bert", 4)[0], tiny_input("bert", 4)[1]["attention_mask"]

CONFIG: list[dict[str, Any]] = [
    {
        "name": "image_list_targets",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("timm_vit"),
        "attribute_args": {"inputs": IMAGES, "target": [0, 1, 4, 0]},
        "layer": "blocks.1",
    },
    {
        "name": "image_tensor_targets",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("timm_average"),
        "attribute_args": {"inputs": IMAGES, "target": torch.tensor([3, 1, 1, 2])},
        "layer": "norm",
    },
    {
        "name": "text_tuple_targets",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("bert"),
        "attribute_args": {
            "inputs": IDS,
            "additional_forward_args": (MASK,),
            "target": [(0,), (1,), (4,), (0,)],
        },
        "layer": "bert.encoder.layer.1",
    },
    {
        "name": "image_tunnel",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("torchvision_vit"),
        "attribute_args": {
            "inputs": tiny_input("torchvision_vit", 4)[0],
            "target": [0, 1, 2, 0],
            "nt_samples": 2,
            "stdevs": 0.0,
        },
        "layer": "encoder.layers",
        "noise_tunnel": True,
    },
]

RUNS = [
    pytest.param(test_config, algorithm, id=gen_test_name("test", test_config["name"], algorithm, noise_tunnel=False))
    for test_config in CONFIG
    for algorithm in test_config["algorithms"]
]

every_run = pytest.mark.parametrize(("test_config", "algorithm"), RUNS)


class FailingLayer(nn.Module):
    """What Captum's plan puts in a layer's place."""

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        raise AssertionError("This layer fails.")


def attribution_of(test_config: dict[str, Any], algorithm: Any, model: nn.Module) -> tuple[Any, dict[str, Any]]:
    _, _, arguments, _, noise_tunnel, _ = parse_test_config(test_config)
    method = algorithm(model)
    return NoiseTunnel(method) if noise_tunnel else method, dict(arguments)


def run(attribution: Any, arguments: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TargetIgnoredWarning)
        return attribution.attribute(**arguments)


def n_hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@every_run
@pytest.mark.parametrize("mode", ["normal", "incorrect_target_or_neuron", "invalid_module"])
def test_no_hook_remains(test_config, algorithm, mode):
    model = copy.deepcopy(test_config["model"])
    if mode == "invalid_module":
        assert _get_deep_layer_name(model, test_config["layer"]) is not None
        _set_deep_layer_value(model, test_config["layer"], FailingLayer())
    attribution, arguments = attribution_of(test_config, algorithm, model)
    fails = mode == "invalid_module"
    if mode == "incorrect_target_or_neuron":
        arguments["target"] = (9999,) * 20
        fails = algorithm.needs_gradients

    if fails:
        with pytest.raises(AssertionError, match=r"Target|This layer fails"):
            run(attribution, arguments)
    else:
        run(attribution, arguments)

    assert n_hooks(model) == 0


def of_one_sample(value: Any, sample: int) -> Any:
    if isinstance(value, tuple):
        return tuple(of_one_sample(part, sample) for part in value)
    if isinstance(value, (list, Tensor)):
        return value[sample : sample + 1]
    return value


@every_run
def test_a_batch_of_targets_equals_a_loop_over_samples(test_config, algorithm):
    attribution, arguments = attribution_of(test_config, algorithm, test_config["model"])
    together = run(attribution, arguments)

    for sample in range(4):
        alone = run(attribution, {name: of_one_sample(value, sample) for name, value in arguments.items()})
        # Captum's own helper and its default tolerance, tightened from 1e-4.
        assertTensorTuplesAlmostEqual(
            unittest.TestCase(), together[sample : sample + 1], alone, delta=1e-10, mode="max"
        )
