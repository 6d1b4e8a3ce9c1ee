"""Where a model gives one output a token, the token that the target names is read."""

import torch
from torch.testing import assert_close

from attrib_plugin import GradientRollout


def vision_tower():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8
    )
    return SiglipVisionModel(config).eval().double()


def test_a_token_of_a_tower_with_pooling_is_read_itself():
    model = vision_tower()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)

    def tokens(pixels):
        return model(pixels).last_hidden_state

    method = GradientRollout(tokens, model=model, sign="signed")

    named = method.attribute(images, target=(5, 3), return_input_shape=False)

    expected = method.attribute(images, target=(5, 3), readout=5, return_input_shape=False)
    assert named.any()
    assert_close(named, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
