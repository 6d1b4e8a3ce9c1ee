"""Arguments of a wrong kind: one clear error each, before the model is run, and what NumPy calls a number is one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, methods
from attrib_plugin.errors import AttributionError, InputError

BERT, VIT = tiny_model("bert"), tiny_model("timm_vit")
IDS, KEYWORDS = tiny_input("bert")
MASK = KEYWORDS["attention_mask"]
IMAGES = tiny_input("timm_vit")[0]
every_method = pytest.mark.parametrize("method", [getattr(methods, name) for name in methods.__all__])


@every_method
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (MASK, r"Expected forward_kwargs to be a mapping .* found Tensor: give forward_kwargs=\{\"attention_mask\""),
        ([("attention_mask", MASK)], "a mapping of names to values, found list"),
        ({"attention_mask": MASK.tolist()}, r"forward_kwargs\['attention_mask'\] to be a tensor, found list"),
        ({"attention_mask": MASK * float("nan")}, r"forward_kwargs\['attention_mask'\] holds NaN"),
        ({"token_type_ids": MASK + 1}, r"\['token_type_ids'\] holds 2, but BertForSeq\w+ knows 0 to 1"),
        ({"position_ids": torch.full((3, 7), 40)}, r"\['position_ids'\] holds 40, but BertForSeq\w+ knows 0 to 39"),
        ({"position_ids": torch.arange(7)[None] - 1}, r"\['position_ids'\] holds -1"),
    ],
)
def test_keywords_that_cannot_be_right_are_refused_before_the_model_is_run(method, keywords, message, monkeypatch):
    monkeypatch.setattr(nn.Embedding, "forward", lambda *_: pytest.fail("The model was run."))

    with pytest.raises(InputError, match=message):
        method(BERT).attribute(IDS, forward_kwargs=keywords)


def test_keywords_at_the_edge_of_what_is_known_are_taken():
    keywords = {**KEYWORDS, "token_type_ids": torch.ones_like(IDS), "position_ids": torch.arange(33, 40)[None]}
    no_end = tiny_model("llama").model

    assert AttentionRollout(BERT).attribute(IDS, forward_kwargs=keywords).any()
    assert AttentionRollout(no_end).attribute(IDS, forward_kwargs={"position_ids": torch.arange(100, 107)[None]}).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 4}, r"grid must be \(rows, columns\) of patches, two whole numbers above 0, not 4"),
        ({"grid": (3.0, 5.0)}, "two whole numbers above 0"),
        ({"grid": (3, -5)}, "two whole numbers above 0"),
        ({"grid": (3, 5, 1)}, "two whole numbers above 0"),
        ({"grid": (3, 0, 5)}, "two whole numbers above 0"),
        ({"grid": "35"}, "two whole numbers above 0"),
        ({"prefix_tokens": 1.0}, r"prefix_tokens must be a whole number of at least 0, not 1\.0"),
        ({"prefix_tokens": -1}, "prefix_tokens must be a whole number of at least 0, not -1"),
        ({"model": "vit"}, r"Expected an nn.Module, found str\. Name the module .* AttentionRollout\(function, model="),
    ],
)
def test_wrong_arguments_of_the_constructor_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        AttentionRollout(VIT, **options)


@pytest.mark.parametrize("number", [int, np.int64, np.int32])
def test_whole_numbers_may_be_those_of_numpy(number):
    method = GradientRollout(VIT, grid=(number(3), number(5)), prefix_tokens=number(1), readout=number(4))

    found = method.attribute(IMAGES, 1, internal_batch_size=number(2))

    assert_close(found, GradientRollout(VIT, readout=4).attribute(IMAGES, 1), rtol=0, atol=1e-12)


@every_method
@pytest.mark.parametrize("size", ["2", 1.5, True, torch.ones(2)], ids=repr)
def test_an_internal_batch_size_that_is_no_whole_number_is_refused(method, size):
    with pytest.raises(InputError, match=r"internal_batch_size must be at least 1, not .* Give a whole number"):
        method(VIT).attribute(IMAGES, internal_batch_size=size)


@pytest.mark.parametrize("readout", [torch.tensor(2), torch.tensor(0.5)], ids=repr)
def test_a_read_out_without_an_axis_is_refused(readout):
    with pytest.raises(InputError, match=r"readout of \w+ must .* shape"):
        GradientRollout(BERT).attribute(IDS, 1, readout=readout)


@every_method
@pytest.mark.parametrize("targets", [1, None, torch.tensor(1)], ids=repr)
def test_one_target_in_place_of_several_is_refused(method, targets):
    with pytest.raises(InputError, match=r"Expected a sequence of targets, found .* One target is for attribute\(\)"):
        method(VIT).attribute_targets(IMAGES, targets)


def test_targets_may_be_a_tensor():
    found = GradientRollout(VIT).attribute_targets(IMAGES, torch.tensor([1, 3]))

    assert_close(found, GradientRollout(VIT).attribute_targets(IMAGES, [1, 3]), rtol=0, atol=0)


@every_method
def test_sparse_images_are_refused(method):
    with pytest.raises(InputError, match=r"Expected a dense tensor, .* give inputs\.to_dense\(\)"):
        method(VIT).attribute(IMAGES.to_sparse())


@pytest.mark.parametrize(("model", "inputs"), [(BERT, IDS), (VIT, IMAGES)], ids=["bert", "timm_vit"])
def test_a_model_without_values_is_refused_in_plain_words(model, inputs):
    with pytest.raises(AttributionError, match=r"on the meta device, where tensors have no values.*weights"):
        GradientRollout(copy.deepcopy(model).to("meta")).attribute(inputs, 1)
