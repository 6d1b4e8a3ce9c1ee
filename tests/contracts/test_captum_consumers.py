"""Captum's pictures and summarizers take the maps of every method as they are, and its questions are answered."""

from __future__ import annotations

import captum
import matplotlib as mpl
import numpy as np
import pytest
from captum.attr import ClassSummarizer, CommonStats, LayerAttribution, visualization
from captum_cases import (
    TARGETS,
    assert_same,
    every_method,
    image_case,
)
from contract_methods import METHODS

mpl.use("Agg")


# Pictures.


@every_method
@pytest.mark.parametrize("view", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"])
def test_visualize_image_attr_takes_the_map_with_channels_last(method_name, view):
    method, _, images, target = image_case(method_name)
    relevance = method.attribute(images, **target)

    figure, _ = visualization.visualize_image_attr(
        np.transpose(relevance[0].numpy(), (1, 2, 0)),
        np.transpose(images[0].sigmoid().numpy(), (1, 2, 0)),
        method=view,
        sign="positive",
        use_pyplot=False,
    )

    assert figure.axes


@every_method
def test_interpolating_the_patch_map_gives_the_pixel_map(method_name):
    method, _, images, target = image_case(method_name)

    patches = method.attribute(images, return_input_shape=False, **target)
    pixels = LayerAttribution.interpolate(patches, tuple(images.shape[-2:]))

    assert pixels.shape == (len(images), 1, *images.shape[-2:])
    if method.is_native:  # relevance of single pixels; a patch has their sum
        return
    assert_same(pixels.expand_as(images), method.attribute(images, **target))


@every_method
def test_the_class_summarizer_takes_the_maps(method_name):
    method, _, images, target = image_case(method_name)
    summarizer = ClassSummarizer(stats=CommonStats())
    relevance = method.attribute(images, **target)

    summarizer.update(relevance, TARGETS)

    assert_same(summarizer.class_summaries[4][0]["mean"], relevance[1])
    assert_same(summarizer.summary[0]["mean"], relevance.mean(0))


@every_method
def test_captums_word_for_each_method_reads_as_words(method_name):
    words = METHODS[method_name].get_name().split()

    assert all(len(word) > 1 for word in words)
    assert "".join(words) == method_name


@every_method
def test_captums_questions_to_a_method_are_answered(method_name):
    method, _, _, _ = image_case(method_name)

    assert isinstance(method, captum.attr.Attribution)
    assert method.has_convergence_delta() is False
    assert method.multiplies_by_inputs is False
