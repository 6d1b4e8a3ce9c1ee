"""What has no gradients, checkpointed or quantised: rollout reads it, other methods say how to go on without."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from attrib_plugin import (
    AttentionAwareRelevance,
    AttentionGradCam,
    AttentionRollout,
    GradientRollout,
    LayerwiseRelevance,
    TokenGradCam,
)
from attrib_plugin.errors import AttributionError, UnsupportedAttentionError

IDS = torch.tensor([[3, 7, 1, 9, 4], [5, 2, 8, 6, 11]])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, tokens):
        query, key, value = self.qkv(self.norm(tokens)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return tokens + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.reentrant = reentrant

    def forward(self, ids):
        tokens = self.embed(ids)
        for block in self.blocks:
            whole = self.reentrant is None
            tokens = block(tokens) if whole else checkpoint(block, tokens, use_reentrant=self.reentrant)
        return self.head(tokens[:, 0])


def model_of(reentrant):
    torch.manual_seed(0)
    return Checkpointed(reentrant).eval().double()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_rollout_reads_through_checkpoints(reentrant):
    found = AttentionRollout(model_of(reentrant), readout="cls").attribute(IDS)

    assert_close(found, AttentionRollout(model_of(None), readout="cls").attribute(IDS), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("method", [AttentionAwareRelevance, LayerwiseRelevance, TokenGradCam])
def test_what_starts_at_the_input_passes_checkpoints_that_are_not_reentrant(method):
    found = method(model_of(False), readout="cls").attribute(IDS, target=1)

    assert_close(found, method(model_of(None), readout="cls").attribute(IDS, target=1), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("method", [GradientRollout, AttentionGradCam])
def test_a_graph_that_starts_inside_a_checkpoint_is_an_error_that_says_what_to_do(method):
    with pytest.raises(UnsupportedAttentionError, match=r"Switch it off .* model\.gradient_checkpointing_disable\(\)"):
        method(model_of(False), readout="cls").attribute(IDS, target=1)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    "method", [GradientRollout, AttentionGradCam, TokenGradCam, AttentionAwareRelevance, LayerwiseRelevance]
)
def test_reentrant_checkpoints_are_an_error_that_says_what_to_do(method):
    with pytest.raises(AttributionError, match=r"model\.gradient_checkpointing_disable\(\)"):
        method(model_of(True), readout="cls").attribute(IDS, target=1)


def test_reentrant_checkpoints_above_the_first_attention_are_an_error_that_says_what_to_do():
    model = model_of(True)
    first = model.blocks[0]
    model.blocks = model.blocks[1:]
    model.embed = nn.Sequential(model.embed, first)

    with pytest.raises(UnsupportedAttentionError, match=r"model\.gradient_checkpointing_disable\(\)"):
        GradientRollout(model, readout="cls").attribute(IDS, target=1)


def test_an_error_of_the_model_inside_a_checkpoint_stays_its_own():
    model = model_of(False)
    model.blocks[0].out = nn.Linear(7, 8).double()

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        GradientRollout(model, readout="cls").attribute(IDS, target=1)


@pytest.mark.filterwarnings(
    "ignore:.*torch.ao:DeprecationWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore:quantized:UserWarning",
)
@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no quantised linear layers")
def test_quantised_layers_are_named_where_gradients_are_missing():
    model = torch.ao.quantization.quantize_dynamic(model_of(None).float(), {nn.Linear}, dtype=torch.qint8)

    with pytest.raises(AttributionError, match=r"quantised layers .use AttentionRollout"):
        GradientRollout(model, readout="cls").attribute(IDS, target=1)
