import re

import pytest
import torch

from attrib_plugin.functional import attention_flow, attention_rollout
from attrib_plugin.visualization import attention_flow_view

TOKENS = ["[CLS]", "a", "gentle", "film", "."]


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(0)
    return [torch.softmax(3 * torch.randn(2, 5, 5), -1) for _ in range(3)]


@pytest.fixture(scope="module")
def fused(attention):
    return torch.stack([layer.mean(0) for layer in attention])[:, None].double()


def shares(page, divide_by=1.0):
    texts = page.texts(".tokens.from .share")
    return torch.tensor([float(text.replace("%", "")) / divide_by if text else 0.0 for text in texts]).double()


def n_edges(page):
    return int(re.search(r"(\d+) edge", page.readout)[1])


def test_rollout_is_that_of_the_formula(page, attention, fused):
    page.open(attention_flow_view(attention, TOKENS, residual=0.3, target=2))

    expected = attention_rollout(fused, residual=0.3)[0, 2]
    torch.testing.assert_close(shares(page, 100), expected, rtol=0, atol=6e-4)
    assert "Rollout to “gentle” at the top" in page.readout


def test_another_target_is_chosen_by_a_click(page, attention, fused):
    page.open(attention_flow_view(attention, TOKENS))
    before = page.picture()

    page.point_at(page.all(".to li")[4], click=True)

    torch.testing.assert_close(shares(page, 100), attention_rollout(fused)[0, 4], rtol=0, atol=6e-4)
    assert page.all(".to li")[4].get_attribute("aria-selected") == "true"
    assert page.picture() != before


def test_flow_is_that_of_the_formula(page, attention, fused):
    page.open(attention_flow_view(attention, TOKENS, target=1))

    page.choose("flow")
    page.point_at(page.all(".from li")[3], click=True)

    expected = attention_flow(fused, outputs=1)[0, 0]
    torch.testing.assert_close(shares(page), expected, rtol=0, atol=6e-4)
    assert f"from “film” to “a” at the top: {float(expected[3]):.3f}" in page.readout


def test_a_source_leaves_only_what_comes_from_it(page, attention, fused):
    page.open(attention_flow_view(attention, TOKENS, target=0))
    page.slide("Hide below", 0)
    before = n_edges(page)

    page.point_at(page.all(".from li")[2], click=True)
    page.slide("Hide below", 0)

    # From one token to one token: 5 edges below, 25 in the middle, 5 above.
    assert (before, n_edges(page)) == (55, 35)
    assert f"{100 * float(attention_rollout(fused)[0, 0, 2]):.1f}" in page.readout


def test_the_residual_path_is_a_slider(page, attention, fused):
    page.open(attention_flow_view(attention, TOKENS, target=3))

    page.slide("Residual path", 80)

    torch.testing.assert_close(shares(page, 100), attention_rollout(fused, residual=0.8)[0, 3], rtol=0, atol=6e-4)


def test_attention_edges_are_those_that_lead_to_the_target(page):
    # The token looks at itself but in the middle, where it looks at its neighbour.
    eye = torch.eye(4)
    layers = [eye, eye.roll(1, 1), eye]
    page.open(attention_flow_view(layers, ["a", "b", "c", "d"], target=1))

    page.choose("attention")

    assert "3 edges" in page.readout
    assert "lead to “b” at the top" in page.readout


def test_threshold_hides_edges(page, attention):
    page.open(attention_flow_view(attention, TOKENS))
    page.slide("Hide below", 0)
    before = n_edges(page)

    page.slide("Hide below", 60)

    assert 0 < n_edges(page) < before


def test_edges_are_drawn_from_token_to_token(page):
    page.open(attention_flow_view([torch.eye(4)] * 2, ["a", "b", "c", "d"], target=2))

    # Between the first two of three columns, in the middle of each row of 24 pixels.
    inks = page.run(
        "const canvas = document.querySelector('canvas');"
        "const column = canvas.getContext('2d').getImageData(canvas.width / 4, 0, 1, 96).data;"
        "return [0, 1, 2, 3].map((row) => column[4 * (12 + 24 * row) + 3])"
    )
    assert [ink > 0 for ink in inks] == [False, False, True, False]
