"""What has no gradients, checkpointed or quantised: rollout reads it, other methods say how to go on without."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_input, tiny_model
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


@pytest.mark.parametrize("embeddings", [False, True], ids=["ids", "embeddings"])
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", [GradientRollout, AttentionGradCam])
def test_the_graph_begins_at_the_input_where_the_first_attention_is_in_a_checkpoint(method, grad, embeddings):
    inside, plain = model_of(False), model_of(None)
    if embeddings:
        inside.embed, plain.embed = nn.Identity(), nn.Identity()
    inputs = torch.randn(2, 5, 8, dtype=torch.float64) if embeddings else IDS

    with grad():
        found = method(inside, readout="cls", sign="signed").attribute(inputs, target=1)
        several = method(inside, readout="cls", sign="signed").attribute_targets(inputs, [0, 1])

    assert_close(found, method(plain, readout="cls", sign="signed").attribute(inputs, target=1), rtol=0.0, atol=1e-12)
    assert_close(several[1], found, rtol=0.0, atol=1e-12)
    assert not inputs.requires_grad


def test_embeddings_that_the_model_changes_in_place_may_begin_the_graph():
    class Scaled(Checkpointed):
        def forward(self, ids):
            tokens = self.embed(ids)
            tokens *= 3
            for block in self.blocks:
                tokens = block(tokens) if self.reentrant is None else checkpoint(block, tokens, use_reentrant=False)
            return self.head(tokens[:, 0])

    torch.manual_seed(0)
    inside = Scaled(False).eval().double()
    plain = Scaled(None).eval().double()
    plain.load_state_dict(inside.state_dict())

    found = GradientRollout(inside, readout="cls").attribute(IDS, target=1)

    assert_close(found, GradientRollout(plain, readout="cls").attribute(IDS, target=1), rtol=0.0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    "method", [GradientRollout, AttentionGradCam, TokenGradCam, AttentionAwareRelevance, LayerwiseRelevance]
)
def test_reentrant_checkpoints_are_an_error_that_says_what_to_do(method):
    with pytest.raises(AttributionError, match=r"checkpoint\(\.\.\., use_reentrant=False\)"):
        method(model_of(True), readout="cls").attribute(IDS, target=1)


def test_reentrant_checkpoints_above_the_first_attention_are_an_error_that_says_what_to_do():
    model = model_of(True)
    first = model.blocks[0]
    model.blocks = model.blocks[1:]
    model.embed = nn.Sequential(model.embed, first)

    with pytest.raises(UnsupportedAttentionError, match=r"checkpoint\(\.\.\., use_reentrant=False\)"):
        GradientRollout(model, readout="cls").attribute(IDS, target=1)


def test_an_error_of_the_model_inside_a_checkpoint_stays_its_own():
    model = model_of(False)
    model.blocks[0].out = nn.Linear(7, 8).double()

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        GradientRollout(model, readout="cls").attribute(IDS, target=1)


# Libraries' own switches.


def checkpointing(model, reentrant):
    found = copy.deepcopy(model)
    if hasattr(found, "set_grad_checkpointing"):
        found.set_grad_checkpointing(True)
    else:
        library = found if hasattr(found, "gradient_checkpointing_enable") else found.model
        library.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return found


def without_dropout(model):
    """In training mode, where checkpointing is at work in transformers, and yet deterministic."""
    for module in model.train().modules():
        for name in ("p", "drop_prob", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def switches_of(model):
    names = ("gradient_checkpointing", "grad_checkpointing")
    return [
        (name, vars(module).get(switch))
        for name, module in model.named_modules()
        for switch in names
        if vars(module).get(switch)
    ]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family_name", ["bert", "hf_vit", "llama", "timm_vit", "timm_eva02"])
def test_checkpointing_that_a_library_switches_on_changes_no_map(family_name, reentrant, training):
    plain = copy.deepcopy(tiny_model(family_name))
    model = checkpointing(plain, reentrant)
    inputs, keywords = tiny_input(family_name)
    if training:
        plain, model = without_dropout(plain), without_dropout(model)
    before = switches_of(model)

    for method in (GradientRollout, AttentionGradCam, TokenGradCam, AttentionRollout, LayerwiseRelevance):
        options = {} if method in (AttentionRollout,) else {"sign": "signed"}
        found = method(model, **options).attribute(inputs, forward_kwargs=keywords)
        expected = method(plain, **options).attribute(inputs, forward_kwargs=keywords)
        assert_close(found, expected, rtol=0.0, atol=1e-10)

    assert switches_of(model) == before
    assert before


def test_switches_are_on_again_after_an_error():
    model = checkpointing(tiny_model("timm_vit"), False)

    with pytest.raises(AttributionError):
        GradientRollout(model).attribute(tiny_input("timm_vit")[0], target=77)

    assert model.grad_checkpointing is True


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
