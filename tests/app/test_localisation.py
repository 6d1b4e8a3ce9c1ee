"""Whether maps point at what the class is: canvases of several digits, where the truth is known exactly."""

import pytest
import torch

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention
from attrib_plugin.app import bundled, digit_canvases

CANVASES = 220


@pytest.fixture(scope="module")
def detected():
    """For every digit that the model finds on canvases of held-out digits: image, quadrant and class."""
    model = bundled.load("multi-digits").model
    generator = torch.Generator().manual_seed(7)
    canvases = digit_canvases.compose_canvases(digit_canvases.held_out_digits(), CANVASES, generator=generator)
    with torch.no_grad():
        scores = model(canvases.images)
    asked = canvases.quadrants.clamp(min=0)
    detected = (canvases.quadrants >= 0) & (scores.gather(1, asked) > 0)
    canvas, quadrant = detected.nonzero(as_tuple=True)
    return model, canvases.images[canvas], quadrant, asked[canvas, quadrant]


def share_in_quadrant(patches, quadrants):
    """Share of every map (n,1,8,8) that lies in the quadrant asked for."""
    quarters = patches.unflatten(2, (2, 4)).unflatten(4, (2, 4)).sum((1, 3, 5)).flatten(1)
    return quarters.gather(1, quadrants[:, None]).squeeze(1) / quarters.sum(1)


def shares(method, detected):
    model, images, quadrants, classes = detected
    options = {"target": classes} if method.needs_gradients else {}
    patches = method(model).attribute(images, return_input_shape=False, internal_batch_size=128, **options)
    return share_in_quadrant(patches, quadrants)


def test_enough_digits_are_detected(detected):
    assert len(detected[2]) >= 500


def test_gradient_rollout_points_at_the_digit_that_is_asked_for(detected):
    found = shares(GradientRollout, detected)

    # Chance is 0.25; measured by benchmarks/localisation.py: 0.476.
    assert found.mean() > 0.44
    assert (found > 0.25).float().mean() > 0.75


@pytest.mark.parametrize("method", [AttentionRollout, RawAttention])
def test_class_agnostic_methods_are_at_chance(detected, method):
    found = shares(method, detected)

    assert 0.2 < found.mean() < 0.33
