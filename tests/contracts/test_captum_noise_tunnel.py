"""Captum's NoiseTunnel around every method gives what averaging by hand gives."""

from __future__ import annotations

import pytest
import torch
from captum.attr import NoiseTunnel
from captum_cases import (
    assert_same,
    embed,
    every_class_method,
    every_method,
    image_case,
    repeated,
    text_case,
)
from tiny_models import tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import RawAttention
from attrib_plugin.errors import InputError, TargetError

# NoiseTunnel.


def smoothed(maps: Tensor, kind: str) -> Tensor:
    """What the noise tunnel makes of maps (B, n, ...)."""
    squares = maps.square().mean(1)
    return {"smoothgrad": maps.mean(1), "smoothgrad_sq": squares, "vargrad": squares - maps.mean(1).square()}[kind]


every_kind = pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])


@every_method
@every_kind
def test_the_noise_tunnel_on_images_equals_our_own_average_over_the_same_noise(method_name, kind):
    method, _, images, target = image_case(method_name)
    torch.manual_seed(5)
    noisy = images.repeat_interleave(3, 0) + torch.normal(0, torch.tensor(0.1).repeat(6, *images.shape[1:]))
    maps = method.attribute(noisy, **repeated(target, 3)).reshape(2, 3, *images.shape[1:])

    torch.manual_seed(5)
    relevance = NoiseTunnel(method).attribute(images, nt_type=kind, nt_samples=3, stdevs=0.1, **target)

    assert_same(relevance, smoothed(maps, kind))


@every_method
@every_kind
def test_the_noise_tunnel_on_embeddings_repeats_the_mask_with_the_samples(method_name, kind):
    method, model, ids, mask, target = text_case(method_name)
    embeddings = embed(model, ids)
    torch.manual_seed(5)
    noisy = embeddings.repeat_interleave(3, 0) + torch.normal(0, torch.tensor(0.05).repeat(6, *embeddings.shape[1:]))
    maps = method.attribute(noisy, additional_forward_args=(mask.repeat_interleave(3, 0),), **repeated(target, 3))

    torch.manual_seed(5)
    relevance = NoiseTunnel(method).attribute(
        embeddings, nt_type=kind, nt_samples=3, stdevs=0.05, additional_forward_args=(mask,), **target
    )

    assert_same(relevance, smoothed(maps.reshape(2, 3, *embeddings.shape[1:]), kind))


@every_method
def test_the_noise_tunnel_without_noise_gives_the_plain_map(method_name):
    method, _, images, target = image_case(method_name)

    relevance = NoiseTunnel(method).attribute(images, nt_samples=2, stdevs=0.0, **target)

    assert_same(relevance, method.attribute(images, **target))


@every_method
def test_the_noise_tunnel_in_partial_batches_takes_tuples_and_patch_maps(method_name):
    method, _, images, target = image_case(method_name)

    (relevance,) = NoiseTunnel(method).attribute(
        (images,), nt_samples=3, nt_samples_batch_size=2, stdevs=0.0, return_input_shape=False, **target
    )

    assert_same(relevance, method.attribute(images, return_input_shape=False, **target))


@every_method
def test_the_noise_tunnel_with_a_mask_as_keyword_is_refused_with_the_remedy(method_name):
    method, model, ids, mask, target = text_case(method_name)

    with pytest.raises(InputError, match=r"2 rows for 6 samples.*additional_forward_args"):
        NoiseTunnel(method).attribute(
            embed(model, ids), nt_samples=3, stdevs=0.1, forward_kwargs={"attention_mask": mask}, **target
        )


@every_class_method
@pytest.mark.parametrize("against", [[0, 3], torch.tensor([0, 3])])
def test_the_noise_tunnel_with_a_contrast_for_each_sample_is_refused(method_name, against):
    method, _, images, target = image_case(method_name)

    with pytest.raises(TargetError, match="does not fit the model's output"):
        NoiseTunnel(method).attribute(images, nt_samples=3, stdevs=0.1, against=against, **target)


def test_the_noise_tunnel_with_a_read_out_for_each_sample_is_refused():
    method, model, ids, mask, _ = text_case("RawAttention")

    with pytest.raises(InputError, match="NoiseTunnel repeats samples but not this keyword"):
        NoiseTunnel(method).attribute(
            embed(model, ids), nt_samples=3, stdevs=0.1, additional_forward_args=(mask,), readout=torch.tensor([0, 1])
        )


def test_a_users_subclass_that_forgets_captums_decorator_still_works():
    class DoubledAttention(RawAttention):
        def attribute(self, inputs, target=None, additional_forward_args=None, **options):
            return 2 * super().attribute(inputs, target, additional_forward_args, **options)

    images, _ = tiny_input("timm_vit", 2)
    method = DoubledAttention(tiny_model("timm_vit"))

    relevance = NoiseTunnel(method).attribute(images, nt_samples=2, stdevs=0.0)

    assert_same(relevance, 2 * RawAttention(tiny_model("timm_vit")).attribute(images))
