import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from attrib_plugin import AttentionRollout, RawAttention, attention_figures
from attrib_plugin.errors import InputError
from attrib_plugin.functional import flow_graph


@pytest.fixture
def shown():
    return attention_figures(tiny_model("timm_vit", dtype=torch.float64), torch.rand(3, 24, 40, dtype=torch.float64))


def drawn(figure):
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def test_a_heat_map_is_the_methods_own_attention():
    model, image = tiny_model("timm_vit", dtype=torch.float64), torch.rand(3, 24, 40, dtype=torch.float64)

    (array,) = drawn(attention_figures(model, image).heat_map(0, 1))

    expected = RawAttention(model).head_attention(image[None])[0][0, 1]
    np.testing.assert_allclose(array, expected, rtol=1e-12)


def test_first_and_last_layer_are_means_over_heads(shown):
    first, last = drawn(shown.first_and_last())

    np.testing.assert_allclose(first, shown.layers[0].mean(0), rtol=1e-12)
    np.testing.assert_allclose(last, shown.layers[-1].mean(0), rtol=1e-12)


def test_a_readout_row_is_the_row_that_the_method_reads():
    model, image = tiny_model("timm_vit", dtype=torch.float64), torch.rand(3, 24, 40, dtype=torch.float64)

    (array,) = drawn(attention_figures(model, image).readout_rows())

    rows = torch.stack(RawAttention(model).layer_rows(image[None]))[:, 0]
    np.testing.assert_allclose(array, rows, rtol=1e-10)


def test_residual_adjusted_attention_has_half_the_identity(shown):
    attention, mixed = drawn(shown.residual_adjusted(0))

    np.testing.assert_allclose(mixed, 0.5 * attention + 0.5 * np.eye(len(attention)), rtol=1e-10)


def test_rollout_is_the_methods_own():
    model, image = tiny_model("timm_vit", dtype=torch.float64), torch.rand(3, 24, 40, dtype=torch.float64)

    (array,) = drawn(attention_figures(model, image).rollout())

    np.testing.assert_allclose(array, AttentionRollout(model).matrix(image[None])[0], rtol=1e-10)


def test_attention_of_a_bfloat16_model_is_multiplied_in_float32():
    shown = attention_figures(tiny_model("timm_vit", dtype=torch.bfloat16), torch.rand(3, 24, 40))

    (array,) = drawn(shown.rollout())

    assert shown.layers[0].dtype == torch.float32
    # Rows of probabilities in bfloat16 sum to one within 2^-8 a layer.
    np.testing.assert_allclose(array.sum(1), 1.0, atol=2 * 2**-8)


def test_edges_of_rollout_bring_each_token_its_share(shown):
    figure = shown.flow_graph("rollout", hide_below=0.0)

    named = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    shares = [float(name.split(" %")[0]) for name in named]
    assert sum(shares) == pytest.approx(100, abs=0.06 * len(shares))
    assert "to “CLS” at the top" in figure.axes[0].get_title()


def test_edges_of_flow_are_one_maximum_flow(shown):
    figure = shown.flow_graph("flow", source=3)

    value = flow_graph(shown.fused()[:, None], output=0, source=3).value
    assert figure.axes[0].get_title().startswith(f"Maximum flow {value:.3g} from “")


def test_attention_lies_over_the_image_on_its_own_patches(shown):
    figure = shown.over_image([0])

    patches = figure.axes[1].images[-1].get_array()
    expected = shown.layers[0].mean(0)[0, 1:].reshape(3, 5)
    assert np.asarray(patches).shape[:2] == expected.shape


def test_a_head_that_reads_several_tokens_needs_a_target():
    shown = attention_figures(tiny_model("timm_vit"), torch.rand(3, 24, 40, dtype=torch.float64), readout="mean")

    with pytest.raises(InputError, match="target="):
        shown.flow_graph()
    assert shown.flow_graph(target=2).axes


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda shown: shown.heat_map(9), "layer must be one of"),
        (lambda shown: shown.heat_map(0, 9), "head must be one of"),
        (lambda shown: shown.flow_graph("wind"), "'attention', 'rollout' or 'flow'"),
        (lambda shown: shown.flow_graph(target=99), "target must be one of"),
    ],
)
def test_what_does_not_exist_is_refused(shown, draw, said):
    with pytest.raises(InputError, match=said):
        draw(shown)
