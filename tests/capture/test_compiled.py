"""Compiled models are read as they were before compilation, and stay compiled."""

import copy

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch._dynamo import eval_frame
from torch._dynamo.testing import CompileCounter

from attrib_plugin import GradientRollout, capture_attention


def by_function(model, counter):
    return torch.compile(model, backend=counter)


def in_place(model, counter):
    model.compile(backend=counter)
    return model


@pytest.mark.parametrize("compiled_by", [by_function, in_place])
@pytest.mark.parametrize("family", ["timm_vit", "bert"])
def test_a_compiled_model_is_explained_as_the_plain_one(family, compiled_by):
    plain, counter = tiny_model(family), CompileCounter()
    inputs, keywords = tiny_input(family)
    compiled = compiled_by(copy.deepcopy(plain), counter)
    compiled(inputs, **keywords)
    compilations = counter.frame_count

    relevance = GradientRollout(compiled).attribute(inputs, target=1, forward_kwargs=keywords)
    compiled(inputs, **keywords)

    expected = GradientRollout(plain).attribute(inputs, target=1, forward_kwargs=keywords)
    torch.testing.assert_close(relevance, expected, rtol=0, atol=1e-12)
    assert eval_frame._stance.stance == "default"
    assert counter.frame_count == compilations > 0


def test_calls_of_a_compiled_model_have_the_names_of_the_plain_one():
    compiled = torch.compile(tiny_model("timm_vit"), backend="eager")
    inputs, _ = tiny_input("timm_vit")

    with capture_attention(compiled) as captured:
        compiled(inputs)

    assert [call.name for call in captured.calls] == [f"blocks.{i}.attn" for i in range(3)]


def test_the_stance_is_taken_back_after_sessions_that_overlap():
    first = capture_attention(torch.compile(tiny_model("timm_vit"), backend="eager"))
    second = capture_attention(torch.compile(tiny_model("bert"), backend="eager"))

    first.__enter__()
    second.__enter__()
    inside = eval_frame._stance.stance
    second.__exit__(None, None, None)
    first.__exit__(None, None, None)

    assert inside == "force_eager"
    assert eval_frame._stance.stance == "default"
