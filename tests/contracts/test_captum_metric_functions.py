"""Infidelity and sensitivity of every method are their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from captum_cases import (
    TARGETS,
    assert_same,
    embed,
    every_method,
    image_case,
    repeated,
    text_case,
)
from torch import Tensor

from attrib_plugin.evaluation import TokenMask, TokenSwap

# captum.metrics.


def expected_infidelity(change: Tensor, relevance: Tensor, difference: Tensor) -> Tensor:
    """Infidelity of one perturbation, from its definition."""
    return torch.stack(
        [
            (sum(change[sample].flatten() * relevance[sample].flatten()) - difference[sample]) ** 2
            for sample in range(len(change))
        ]
    )


def class_scores(logits: Tensor) -> Tensor:
    return logits[torch.arange(len(logits)), TARGETS[: len(logits)]]


@every_method
def test_infidelity_on_images_is_its_definition(method_name):
    method, model, images, target = image_case(method_name)
    relevance = method.attribute(images, **target)
    change = 0.01 * torch.randn_like(images)
    with torch.no_grad():
        difference = class_scores(model(images)) - class_scores(model(images - change))

    found = infidelity(
        model, lambda inputs: (change, inputs - change), images, relevance, target=TARGETS, n_perturb_samples=1
    )

    assert_same(found, expected_infidelity(change, relevance, difference), 1e-10)


@every_method
def test_infidelity_on_embeddings_is_its_definition(method_name):
    method, model, ids, mask, target = text_case(method_name)
    embeddings = embed(model, ids)
    relevance = method.attribute(embeddings, additional_forward_args=(mask,), **target)
    change = 0.01 * torch.randn_like(embeddings)

    def forward(inputs: Tensor, attention_mask: Tensor) -> Tensor:
        return model(inputs_embeds=inputs, attention_mask=attention_mask).logits

    with torch.no_grad():
        difference = class_scores(forward(embeddings, mask)) - class_scores(forward(embeddings - change, mask))

    found = infidelity(
        forward,
        lambda inputs: (change, inputs - change),
        embeddings,
        relevance,
        additional_forward_args=(mask,),
        target=TARGETS,
        n_perturb_samples=1,
    )

    assert_same(found, expected_infidelity(change, relevance, difference), 1e-10)


@every_method
@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_on_token_ids_takes_a_binary_perturbation(method_name, normalize):
    method, model, ids, mask, target = text_case(method_name)
    relevance = method.attribute(ids, additional_forward_args=(mask,), **target)

    def forward(inputs: Tensor, attention_mask: Tensor) -> Tensor:
        return model(inputs, attention_mask=attention_mask).logits

    def options(times: int) -> dict[str, Any]:
        perturbation = TokenMask(3, share=0.3, keep=[1], seed=0)
        return {
            "perturb_func": perturbation.for_infidelity,
            "additional_forward_args": (mask,),
            "target": TARGETS,
            "n_perturb_samples": times,
        }

    found = infidelity(forward, inputs=ids, attributions=relevance, normalize=normalize, **options(4))
    once = infidelity(forward, inputs=ids, attributions=relevance, **options(1))

    changes, perturbed = TokenMask(3, share=0.3, keep=[1], seed=0).for_infidelity(ids)
    with torch.no_grad():
        difference = class_scores(forward(ids, mask)) - class_scores(forward(perturbed, mask))
    assert found.shape == (2,)
    assert found.isfinite().all()
    assert_same(once, expected_infidelity(changes, relevance, difference), 1e-10)


def expected_sensitivity(relevance: Tensor, perturbed: list[Tensor]) -> Tensor:
    """Largest relative change of each sample's map, from the definition."""
    changes = torch.stack(
        [(one - relevance).flatten(1).norm(dim=1) / relevance.flatten(1).norm(dim=1) for one in perturbed]
    )
    return changes.max(0).values


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_on_images_is_its_definition(method_name, batch_size):
    method, _, images, target = image_case(method_name, batch_size)
    steps = 0.02 * torch.randn(batch_size, 3, *images.shape[1:], dtype=images.dtype)
    perturbed = [method.attribute(images + steps[:, draw], **target) for draw in range(3)]

    found = sensitivity_max(
        method.attribute,
        images,
        perturb_func=lambda inputs: (inputs + steps.flatten(0, 1),),
        n_perturb_samples=3,
        **target,
    )

    assert found.shape == (batch_size,)
    assert_same(found, expected_sensitivity(method.attribute(images, **target), perturbed), 1e-10)


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_of_patch_maps_is_its_definition(method_name, batch_size):
    method, _, images, target = image_case(method_name, batch_size)
    step = 0.02 * torch.randn_like(images)
    relevance, perturbed = (
        method.attribute(one, return_input_shape=False, **target) for one in (images, images + step)
    )

    found = sensitivity_max(
        method.attribute,
        images,
        perturb_func=lambda inputs: (inputs + step,),
        n_perturb_samples=1,
        return_input_shape=False,
        **target,
    )

    assert_same(found, expected_sensitivity(relevance, [perturbed]), 1e-10)


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_with_captums_own_noise_runs_on_images_and_embeddings(method_name, batch_size):
    image_method, _, images, target = image_case(method_name, batch_size)
    text_method, model, ids, mask, _ = text_case(method_name, batch_size)

    of_images = sensitivity_max(image_method.attribute, images, n_perturb_samples=2, **target)
    of_embeddings = sensitivity_max(
        text_method.attribute, embed(model, ids), n_perturb_samples=2, additional_forward_args=(mask,), **target
    )

    for found in (of_images, of_embeddings):
        assert found.shape == (batch_size,)
        assert found.isfinite().all()
        assert (found > 0).all()


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_on_token_ids_takes_a_token_swap(method_name, batch_size):
    method, _, ids, mask, target = text_case(method_name, batch_size)
    perturbed = TokenSwap(range(60), share=0.3, keep=[1], seed=6).perturb(ids.repeat_interleave(3, 0))
    maps = method.attribute(
        perturbed, additional_forward_args=(mask.repeat_interleave(3, 0),), **repeated(target, 3)
    ).reshape(batch_size, 3, -1)

    found = sensitivity_max(
        method.attribute,
        ids,
        perturb_func=TokenSwap(range(60), share=0.3, keep=[1], seed=6).for_sensitivity,
        n_perturb_samples=3,
        additional_forward_args=(mask,),
        **target,
    )

    relevance = method.attribute(ids, additional_forward_args=(mask,), **target)
    assert_same(found, expected_sensitivity(relevance, list(maps.unbind(1))), 1e-10)
