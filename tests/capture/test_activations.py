"""A tap keeps the tokens of one layer, for its own session only, and leaves nothing on the model."""

import threading

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin.capture import CaptureSession, find_layer, tapped
from attrib_plugin.errors import CaptureError, InputError


def n_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class InPlace(nn.Module):
    """Attention whose input is changed in place afterwards, as some models add the residual."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        normed = self.norm(tokens)
        mixed, _ = self.attention(normed, normed, normed)
        mixed = mixed + normed
        normed.mul_(0)
        return self.head(mixed.mean(1))


def test_what_the_last_attention_reads_is_kept_with_its_gradient():
    model, (images, _) = tiny_model("timm_vit"), tiny_input("timm_vit")
    kept = []
    handle = model.blocks[2].norm1.register_forward_hook(lambda module, given, output: kept.append(output))
    (expected,) = torch.autograd.grad(model(images)[:, 1].sum(), kept)
    handle.remove()

    with CaptureSession(model) as session, tapped(session) as tap:
        activation = tap.read(model(images)[:, 1])

    assert_close(activation.values, kept[0].detach(), rtol=0.0, atol=1e-12)
    assert_close(activation.gradient, expected, rtol=0.0, atol=1e-12)


def test_changes_in_place_do_not_reach_what_was_kept():
    model = InPlace().eval().double()
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)

    with CaptureSession(model) as session, tapped(session) as tap:
        activation = tap.read(model(tokens)[:, 1])

    assert_close(activation.values, model.norm(tokens).detach(), rtol=0.0, atol=1e-12)
    assert activation.gradient.any()


@pytest.mark.parametrize("layer", [None, "blocks.1.norm2"])
def test_hooks_are_gone_after_the_block_also_after_an_error(layer):
    model = tiny_model("timm_vit")
    before = n_hooks(model)

    with (
        pytest.raises(RuntimeError, match="stop here"),
        CaptureSession(model) as session,
        tapped(session, None if layer is None else find_layer(model, layer)),
    ):
        raise RuntimeError("stop here")

    assert n_hooks(model) == before


def test_a_score_that_does_not_depend_on_the_layer_is_refused():
    model, (images, _) = tiny_model("timm_vit"), tiny_input("timm_vit")

    with CaptureSession(model) as session, tapped(session, model.blocks[2].norm1) as tap:
        model(images)
        with pytest.raises(CaptureError, match="does not depend on this layer"):
            tap.read(torch.ones(3, requires_grad=True))
        with pytest.raises(CaptureError, match="has no graph"):
            tap.read(torch.ones(3))


def test_before_the_model_has_run_there_is_nothing_to_read():
    model = tiny_model("timm_vit")

    with (
        CaptureSession(model) as session,
        tapped(session) as tap,
        pytest.raises(CaptureError, match="Name a layer that ran"),
    ):
        tap.read(torch.ones(3, requires_grad=True))


@pytest.mark.parametrize("name", [None, "blocks.2.norm1"])
def test_another_thread_on_the_same_model_is_not_listened_to(name):
    model, (images, _) = tiny_model("timm_vit"), tiny_input("timm_vit")
    layer = None if name is None else find_layer(model, name)

    with CaptureSession(model) as session, tapped(session, layer) as tap:
        output = model(images)
        thread = threading.Thread(target=model, args=(images * 2,))
        thread.start()
        thread.join()
        activation = tap.read(output[:, 1])

    with CaptureSession(model) as session, tapped(session, layer) as tap:
        expected = tap.read(model(images)[:, 1])
    assert_close(activation.values, expected.values, rtol=0.0, atol=0.0)
    assert_close(activation.gradient, expected.gradient, rtol=0.0, atol=0.0)


def test_a_layer_is_found_by_name_also_in_a_compiled_model():
    model = tiny_model("timm_vit")

    assert find_layer(torch.compile(model), "blocks.1.norm1") is model.blocks[1].norm1
    with pytest.raises(InputError, match=r"has no module 'blocks\.9'"):
        find_layer(model, "blocks.9")
