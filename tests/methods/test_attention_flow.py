"""AttentionFlow as a Captum class: the formula on what the model attends to."""

import sys

import pytest
import torch
from golden_models import FOLDER, IMAGES, PADDED, TEXTS, assert_golden, load_case
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch.testing import assert_close

from attrib_plugin import AttentionFlow
from attrib_plugin.errors import MissingDependencyError
from attrib_plugin.functional import attention_flow, attention_flow_by_layer, fuse_heads

EXACT = {"rtol": 0.0, "atol": 1e-12}
FAMILY_NAMES = ("bert", "timm_vit", "timm_average", "hf_vit", "torch_encoder")


def load_flow(name):
    import numpy as np

    with np.load(FOLDER / "data" / f"{name}.flow.npz", allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def case_of(family_name, **options):
    method = AttentionFlow(tiny_model(family_name), **FAMILIES[family_name].options, **options)
    inputs, keywords = tiny_input(family_name)
    attention = fuse_heads(torch.stack(method.head_attention(inputs, forward_kwargs=keywords)))
    return method, inputs, keywords, attention


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
@pytest.mark.parametrize("options", [{}, {"residual": 0.9}, {"normalize": True}])
def test_the_matrix_is_the_formula_on_the_heads_mean(family_name, options):
    method, inputs, keywords, attention = case_of(family_name, **options)

    matrix = method.matrix(inputs, forward_kwargs=keywords)

    assert_close(matrix, attention_flow(attention, **options), **EXACT)


@pytest.mark.parametrize("family_name", FAMILY_NAMES)
def test_rows_of_every_layer_are_the_flow_to_the_read_out(family_name):
    method, inputs, keywords, attention = case_of(family_name)
    weights = torch.rand(attention.shape[-1], dtype=torch.float64)

    rows = method.layer_rows(inputs, forward_kwargs=keywords, readout=weights)

    assert_close(torch.stack(rows), weights @ attention_flow_by_layer(attention), **EXACT)


def test_mean_pooling_is_the_mean_of_the_flows_to_the_tokens():
    method, images, _, attention = case_of("timm_average")

    patches = method.attribute(images, return_input_shape=False)

    assert_close(patches.flatten(1), attention_flow(attention).mean(1), **EXACT)


@pytest.mark.parametrize("head_fusion", ["max", "min"])
def test_heads_may_be_fused_in_another_way(head_fusion):
    method, inputs, keywords, _ = case_of("bert", head_fusion=head_fusion)
    heads = torch.stack(method.head_attention(inputs, forward_kwargs=keywords))

    matrix = method.matrix(inputs, forward_kwargs=keywords)

    assert_close(matrix, attention_flow(fuse_heads(heads, head_fusion)), **EXACT)


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_the_preset_gives_the_row_of_abnar_after_every_layer(name):
    case = load_case(name)
    stored = load_flow(name)["abnar.flow_res_norm"]

    rows = AttentionFlow.from_preset("abnar2020", case.model).layer_rows(**case.call, readout=0)

    assert_golden(torch.cat(rows), stored[:, 0])


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_raw_flows_are_those_of_abnar(name):
    case = load_case(name)
    stored = load_flow(name)["abnar.flow_res_raw"]

    rows = AttentionFlow(case.model).layer_rows(**case.call, readout=0)

    assert_golden(torch.cat(rows), stored[:, 0])


def test_a_padded_batch_gives_the_flow_of_each_row_alone():
    case = load_case(PADDED)
    stored = load_flow(PADDED)

    matrix = AttentionFlow(case.model).matrix(**case.call)

    for sample in range(3):
        assert_golden(matrix[sample], stored[f"abnar.row{sample}.flow_res_raw"][-1])


def test_both_engines_give_the_same_map():
    compiled, inputs, keywords, _ = case_of("bert", engine="numba")
    plain, *_ = case_of("bert", engine="scipy")

    relevance = compiled.attribute(inputs, forward_kwargs=keywords)

    assert_close(relevance, plain.attribute(inputs, forward_kwargs=keywords), **EXACT)


def test_an_engine_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    method, inputs, keywords, _ = case_of("bert", engine="numba")
    monkeypatch.setitem(sys.modules, "attrib_plugin.functional.flow.numba_engine", None)
    monkeypatch.delattr("attrib_plugin.functional.flow.numba_engine", raising=False)

    with pytest.raises(MissingDependencyError, match=r"numba is needed here.*attrib-plugin\[flow\]"):
        method.attribute(inputs, forward_kwargs=keywords)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"residual": 1.5}, "residual must be between 0 and 1, not 1.5"), ({"engine": "fast"}, "engine must be 'auto'")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionFlow(tiny_model("bert"), **options)
