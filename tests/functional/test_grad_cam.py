"""GradCAM formulas against slow loops."""

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin.functional import attention_grad_cam, grad_cam
from attrib_plugin.functional.grad_cam import masked_mean, min_max

EXACT = {"rtol": 0.0, "atol": 1e-12}
BATCH, TOKENS, CHANNELS = 2, 5, 3


def slow_cam(values, gradients, counted):
    cam = torch.zeros(BATCH, TOKENS, dtype=torch.float64)
    for sample in range(BATCH):
        for channel in range(CHANNELS):
            places = [place for place in range(TOKENS) if counted[sample][place]]
            weight = sum(float(gradients[sample, place, channel]) for place in places) / len(places)
            for token in range(TOKENS):
                cam[sample, token] += weight * float(values[sample, token, channel])
    return cam


@pytest.fixture
def layer():
    values, gradients = torch.randn(2, BATCH, TOKENS, CHANNELS, dtype=torch.float64)
    counted = torch.tensor([[False, True, True, True, False], [False, True, True, False, False]])
    return values, gradients, counted


def test_signed_grad_cam_agrees_with_slow_loops(layer):
    values, gradients, counted = layer

    cam = grad_cam(values, gradients, counted=counted, sign="signed")

    assert_close(cam, slow_cam(*layer), **EXACT)


def test_without_a_mask_all_tokens_count(layer):
    values, gradients, counted = layer

    cam = grad_cam(values, gradients, sign="signed")

    assert_close(cam, slow_cam(values, gradients, torch.ones_like(counted)), **EXACT)


def test_positive_and_negative_are_the_two_halves_of_signed(layer):
    values, gradients, counted = layer
    halves = {sign: grad_cam(values, gradients, counted=counted, sign=sign) for sign in ("positive", "negative")}

    signed = grad_cam(values, gradients, counted=counted, sign="signed")

    assert all((half >= 0).all() and half.any() for half in halves.values())
    assert_close(halves["positive"] - halves["negative"], signed, **EXACT)


def test_heads_as_channels_agree_with_slow_loops():
    probs, weights = torch.rand(2, 4, 3, 5, dtype=torch.float64), torch.randn(2, 4, 3, 1, dtype=torch.float64)
    expected = torch.zeros(2, 3, 5, dtype=torch.float64)
    for sample in range(2):
        for row in range(3):
            for token in range(5):
                total = sum(float(weights[sample, head, row, 0] * probs[sample, head, row, token]) for head in range(4))
                expected[sample, row, token] = max(total / 4, 0.0)

    assert_close(attention_grad_cam(probs, weights), expected, **EXACT)


def test_an_unknown_sign_is_refused(layer):
    values, gradients, _ = layer

    with pytest.raises(ValueError, match="sign must be 'positive', 'negative' or 'signed', not 'both'"):
        grad_cam(values, gradients, sign="both")


def test_the_mean_where_nothing_counts_is_zero():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    assert_close(masked_mean(values, torch.tensor([[False, False], [False, True]])), torch.tensor([0.0, 4.0]))


def test_min_max_reaches_from_zero_to_one_over_what_counts():
    values = torch.tensor([[9.0, 2.0, 4.0, 3.0]])
    counted = torch.tensor([[False, True, True, True]])

    assert_close(min_max(values, counted=counted), torch.tensor([[0.0, 0.0, 1.0, 0.5]]))


def test_min_max_of_values_that_are_all_alike_is_zero_and_not_nan():
    assert_close(min_max(torch.full((1, 3, 3), 2.0), (-2, -1)), torch.zeros(1, 3, 3))
