"""Proofs for windows and merged tokens: they hold for Swin, and fail where they should."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from windowed_libraries import GRIDS, LIBRARIES, images, model_of, place

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import model_builders
import model_proofs
import small_configs
import sweep_models
import windowed_proofs
from open_attention import Case

from attrib_plugin import AttentionRollout, GradientRollout

pytestmark = pytest.mark.filterwarnings("ignore")

SWIN = ("transformers", "swin SwinForImageClassification", "sdpa")
SAMPLE = [
    SWIN,
    ("timm", "swin_s3_tiny_224", "eager"),
    ("timm", "swinv2_cr_tiny_ns_224", "eager"),
    ("transformers", "donut-swin DonutSwinForImageClassification", "eager"),
]


@cache
def case_of(library, name, implementation):
    ((_, case),) = model_builders.cases(library, name, implementation)
    return case


@pytest.mark.parametrize(("library", "name", "implementation"), SAMPLE)
def test_a_swin_model_of_the_sample_is_proven(library, name, implementation):
    assert model_proofs.failed_proofs(case_of(library, name, implementation)) == []


@pytest.mark.parametrize("name", ["timm", "timm_wide", "timm_v2", "hf", "hf_v2"])
def test_the_slots_that_blocks_are_asked_for_are_those_of_the_definition(name):
    model, library = model_of(name), LIBRARIES[name]
    blocks = [module for module in model.modules() if type(module).__name__ in windowed_proofs._BLOCKS]

    stages = windowed_proofs._stages(Case(model, images(2)), blocks)

    assert [stage.grid for stage in stages] == list(GRIDS)
    for layer, stage in enumerate(stages):
        height, width = stage.grid
        slots = library.windows[layer][0] * library.windows[layer][1]
        places = [place(token, layer, library) for token in range(height * width)]
        n_windows = -(-height // library.windows[layer][0]) * -(-width // library.windows[layer][1])
        expected = torch.tensor(
            [[(sample * n_windows + window) * slots + slot for window, slot in places] for sample in range(2)]
        )
        assert torch.equal(stage.slots, expected)


def test_a_read_out_of_one_token_is_found():
    failed = windowed_proofs.failed_windowed_proofs(replace(case_of(*SWIN), options={"readout": 3}))

    assert "the head reads other tokens than the read-out names" in failed


class Squeezing(nn.Module):
    """A norm that scales every token by the mean over all of them."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, hidden):
        return self.norm(hidden) * hidden.mean(1, keepdim=True).sigmoid()


def test_tokens_mixed_outside_of_attention_are_found():
    ((_, case),) = model_builders.cases(*SWIN)
    case = replace(case, model=case.model.double(), inputs=case.inputs.double())
    blocks = [module for module in case.model.modules() if type(module).__name__ == "SwinLayer"]
    stages = windowed_proofs._stages(case, blocks)
    assert windowed_proofs._failed_by_mixing(case, stages) == []
    blocks[2].layernorm_after = Squeezing(blocks[2].layernorm_after)

    # Asked directly, because the package does not give a map of this model at all.
    failed = windowed_proofs._failed_by_mixing(case, stages)

    assert failed == ["tokens are mixed outside of attention, or merged otherwise than two by two"]


def test_a_map_of_which_left_is_right_is_found(monkeypatch):
    right = AttentionRollout.attribute
    monkeypatch.setattr(
        AttentionRollout, "attribute", lambda self, *arguments, **keywords: right(self, *arguments, **keywords).flip(-1)
    )

    failed = windowed_proofs.failed_windowed_proofs(case_of(*SWIN))

    assert failed == [
        "a token has shares of other patches than its value depends on",
        "a corner of the image is not the token that the grid names",
    ]


def test_maps_that_leave_out_the_last_layer_are_found(monkeypatch):
    for method in (AttentionRollout, GradientRollout):
        right = method.layer_rows
        monkeypatch.setattr(
            method,
            "layer_rows",
            lambda self, *arguments, right=right, **keywords: right(self, *arguments, **keywords)[:-1],
        )

    failed = windowed_proofs.failed_windowed_proofs(case_of(*SWIN))

    assert failed == ["the map of rollout is not the product of the layers", "the map is not the product of the layers"]


def test_windows_that_cover_the_image_prove_nothing(monkeypatch):
    small = {**small_configs.SPECIAL["swin"], "window_size": 6, "depths": [2], "num_heads": [2]}
    monkeypatch.setitem(small_configs.SPECIAL, "swin", small)
    monkeypatch.setattr(model_builders, "SWIN_IMAGE", (24, 24))
    ((_, case),) = model_builders.cases(*SWIN)

    failed = windowed_proofs.failed_windowed_proofs(case)

    assert failed == ["every token depends on every patch, so that windows cannot be told from none"]


def test_a_swin_model_that_has_no_fused_attention_is_said_to_be_eager():
    record = sweep_models.examine("timm", "swinv2_tiny_window8_256")

    assert (record["verdict"], record["reason"], record["attention"]) == ("works", "", {"eager": "works"})
