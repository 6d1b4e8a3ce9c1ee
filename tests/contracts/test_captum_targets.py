"""Every method takes targets as Captum takes them, and refuses what Captum refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum._utils.common import _select_targets
from captum.attr import Saliency
from captum_cases import (
    assert_same,
    every_class_method,
    every_method,
    image_case,
)
from contract_methods import made
from tiny_models import tiny_input
from torch import Tensor, nn

from attrib_plugin.errors import InputError, TargetError

# Targets.

FORMS = [
    1,
    -1,
    torch.tensor(1),
    torch.tensor([1]),
    torch.tensor([1], dtype=torch.int32),
    [0, 2],
    torch.tensor([0, 2]),
    (1,),
    [(1,), (2,)],
]


@every_class_method
@pytest.mark.parametrize("target", FORMS, ids=repr)
def test_a_target_selects_what_captum_selects(method_name, target):
    method, model, images, _ = image_case(method_name)
    selecting = made(method_name, lambda inputs: _select_targets(model(inputs), target), model=model)

    relevance = method.attribute(images, target)

    assert_same(relevance, selecting.attribute(images))


def token_classifier() -> nn.Module:
    import transformers

    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=5
    )
    return transformers.BertForTokenClassification(config).eval().double()


@every_class_method
@pytest.mark.parametrize("target", [(3, 1), [(3, 1), (0, 4)]], ids=repr)
def test_a_target_of_token_classification_names_token_and_class(method_name, target):
    model = token_classifier()
    ids, keywords = tiny_input("bert", 2)
    positions = torch.tensor([3, 3 if isinstance(target, tuple) else 0])

    def selecting(inputs: Tensor, **options: Any) -> Tensor:
        return _select_targets(model(inputs, **options).logits, target)

    relevance = made(method_name, model).attribute(ids, target, forward_kwargs=keywords)

    expected = made(method_name, selecting, model=model, readout=positions)
    assert_same(relevance, expected.attribute(ids, forward_kwargs=keywords))


@every_class_method
@pytest.mark.parametrize("target", [None, 1, [1, 2], (1,)], ids=repr)
def test_a_target_that_leaves_several_scores_a_sample_is_refused(method_name, target):
    ids, keywords = tiny_input("bert", 2)
    method = made(method_name, token_classifier(), readout="cls")

    with pytest.raises(TargetError, match="Target"):
        method.attribute(ids, target, forward_kwargs=keywords)
    with pytest.raises(AssertionError, match="Target"):
        method.attribute(ids, target, forward_kwargs=keywords)


def error_of(attribute: Any, *arguments: Any, **options: Any) -> type[Exception] | None:
    try:
        attribute(*arguments, **options)
    except Exception as error:
        return type(error)
    return None


REFUSED = [torch.tensor([[0], [2]]), torch.tensor([1.0]), [1], [0, 1, 2], torch.tensor([0, 1, 2]), "1", 1.0]

BEYOND = [99, -6, (99,), [(99,), (1,)]]

BEYOND_FOR_GATHER = [[0, 99], torch.tensor([0, 99]), torch.tensor(99)]


@every_class_method
@pytest.mark.parametrize("target", REFUSED + BEYOND, ids=repr)
def test_a_wrong_target_raises_what_captum_raises(method_name, target):
    method, model, images, _ = image_case(method_name)
    captums = error_of(Saliency(model).attribute, images.clone().requires_grad_(), target)

    ours = error_of(method.attribute, images, target)

    assert captums in (AssertionError, IndexError)
    assert ours is TargetError
    assert issubclass(ours, captums)


@every_class_method
@pytest.mark.parametrize("target", BEYOND_FOR_GATHER, ids=repr)
def test_a_class_that_does_not_exist_is_an_index_error_in_every_form(method_name, target):
    method, _, images, _ = image_case(method_name)

    with pytest.raises(IndexError, match="out of range: the model has 5 classes, 0 to 4"):
        method.attribute(images, target)


@every_class_method
@pytest.mark.parametrize("target", [True, [True, False], torch.tensor([True, False]), (True,)], ids=repr)
def test_a_bool_is_no_target(method_name, target):
    method, _, images, _ = image_case(method_name)

    with pytest.raises(TargetError, match="must be an int, not a bool"):
        method.attribute(images, target)


@every_method
def test_a_list_of_inputs_is_refused_as_captum_refuses_it(method_name):
    method, model, images, _ = image_case(method_name)

    with pytest.raises(InputError, match="found list"):
        method.attribute([images])
    assert error_of(Saliency(model).attribute, [images], 1) is AssertionError
