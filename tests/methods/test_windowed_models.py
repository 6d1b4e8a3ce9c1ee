"""Swin models: methods against dense matrices of all tokens, built by slow loops from the definition of windows."""

from __future__ import annotations

import copy
from functools import cache, partial
from typing import Any

import pytest
import torch
from tiny_models import _hf_swin, _timm_swin, _torchvision_swin
from torch import Tensor, nn
from windowed_libraries import (
    GRIDS,
    LIBRARIES,
    TARGETS,
    assert_same,
    every_library,
    images,
    merging,
    model_of,
    place,
    whole_maps,
)

from attrib_plugin import (
    AttentionFlow,
    AttentionRollout,
    GeneralizedAttentionFlow,
    GradientRollout,
    RawAttention,
    capture_attention,
)
from attrib_plugin.errors import InputError, TrainingModeWarning, UnknownModelError, UnsupportedAttentionError
from attrib_plugin.methods.base import layers

pytest.importorskip("timm")
pytest.importorskip("transformers")
pytest.importorskip("torchvision")

# The oracle.


@cache
def dense(name: str) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Probabilities and gradients of all heads over all tokens, and T between the stages."""
    model, batch = model_of(name), images()
    with capture_attention(model) as captured:
        output = model(batch)
        scores = output if isinstance(output, Tensor) else output.logits
        score = scores[torch.arange(3), TARGETS].sum()
        found = [(call.probabilities().detach(), call.gradient(of=score).detach()) for call in captured.calls]
    library = LIBRARIES[name]
    probs, gradients = (
        [whole_maps(maps[part], layer, library, 3) for layer, maps in enumerate(found)] for part in (0, 1)
    )
    return probs, gradients, merging(GRIDS[1], GRIDS[2])


def product(layer_matrices: list[Tensor], shares: Tensor) -> Tensor:
    first, second, third, fourth = layer_matrices
    return fourth @ third @ shares @ second @ first


def mixed(attention: Tensor, residual: float = 0.5) -> Tensor:
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype)
    summed = (1 - residual) * attention + residual * identity
    return summed / summed.sum(-1, keepdim=True)


def evidence(probs: Tensor, gradients: Tensor) -> Tensor:
    return (probs * gradients).clamp(min=0).mean(1)


def readout() -> Tensor:
    return torch.full((1, 24), 1 / 24, dtype=torch.float64)


# Methods against the oracle.


@every_library
def test_heads_are_those_of_all_windows_over_all_tokens(name):
    heads = RawAttention(model_of(name)).head_attention(images())

    for layer, expected in zip(heads, dense(name)[0], strict=True):
        assert_same(layer, expected)


@every_library
def test_rollout_is_the_product_of_dense_layers_and_merging_shares(name):
    probs, _, shares = dense(name)
    expected = product([mixed(layer.mean(1)) for layer in probs], shares)
    method = AttentionRollout(model_of(name))

    assert_same(method.matrix(images()), expected)
    relevance = method.attribute(images(), return_input_shape=False)
    assert_same(relevance.flatten(1), (readout() @ expected).squeeze(1))
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    for layer, one in zip(method.layer_attention(images()), probs, strict=True):
        assert_same(layer, mixed(one.mean(1)))


@every_library
@pytest.mark.parametrize("include_identity", [False, True])
def test_gradient_rollout_is_the_dense_recursion_without_the_start_on_the_patches(name, include_identity):
    probs, gradients, shares = dense(name)
    weighted = [evidence(*pair) for pair in zip(probs, gradients, strict=True)]
    expected = product([torch.eye(layer.shape[-1], dtype=layer.dtype) + layer for layer in weighted], shares)
    method = GradientRollout(model_of(name), include_identity=include_identity)

    relevance = method.attribute(images(), TARGETS, return_input_shape=False)

    start = torch.zeros(()) if include_identity else readout() @ shares
    assert_same(relevance.flatten(1), (readout() @ expected - start).squeeze(1), 1e-10)
    assert_same(method.matrix(images(), TARGETS), expected)
    for layer, one in zip(method.layer_attention(images(), TARGETS), weighted, strict=True):
        assert_same(layer, one)


@every_library
def test_raw_attention_of_a_layer_reads_what_the_last_tokens_were_merged_from(name):
    probs, _, shares = dense(name)
    method = RawAttention(model_of(name))
    fused = [layer.mean(1) for layer in probs]
    at_top, below = readout(), readout() @ shares
    expected = [below @ fused[0], below @ fused[1], at_top @ fused[2] @ shares, at_top @ fused[3] @ shares]

    rows = method.layer_rows(images())

    for row, one in zip(rows, expected, strict=True):
        assert_same(row, one.squeeze(1))
    assert_same(method.attribute(images(), return_input_shape=False).flatten(1), expected[3].squeeze(1))
    mean = RawAttention(model_of(name), layer=None).attribute(images(), return_input_shape=False)
    assert_same(mean.flatten(1), torch.stack(expected).mean(0).squeeze(1))


@pytest.mark.parametrize("start_layer", [1, 2, 3])
def test_layers_left_out_of_a_rollout_are_the_identity_but_tokens_are_still_merged(start_layer):
    probs, gradients, shares = dense("timm")
    identities = [torch.eye(layer.shape[-1], dtype=layer.dtype).expand(3, -1, -1) for layer in probs]
    kept = [mixed(layer.mean(1)) for layer in probs]
    grown = [one + evidence(*pair) for one, pair in zip(identities, zip(probs, gradients, strict=True), strict=True)]

    rollout = AttentionRollout(model_of("timm"), start_layer=start_layer).layer_rows(images())
    gained = GradientRollout(model_of("timm"), start_layer=start_layer).layer_rows(images(), TARGETS)

    for number in range(4):
        layers_up_to = [
            [maps[i] if start_layer <= i <= number else identities[i] for i in range(4)] for maps in (kept, grown)
        ]
        expected, expected_gained = (product(up_to, shares) for up_to in layers_up_to)
        assert_same(rollout[number], (readout() @ expected).squeeze(1))
        difference = (readout() @ expected_gained - readout() @ shares).squeeze(1)
        torch.testing.assert_close(gained[number], difference, rtol=0, atol=1e-15)


@pytest.mark.parametrize("head_fusion", ["max", "min"])
def test_options_of_rollout_hold_for_windows(head_fusion):
    probs, _, shares = dense("hf")
    fused = [layer.amax(1) if head_fusion == "max" else layer.amin(1) for layer in probs]
    expected = product([mixed(layer, 0.3) for layer in fused], shares)

    matrix = AttentionRollout(model_of("hf"), head_fusion=head_fusion, residual=0.3).matrix(images())

    assert_same(matrix, expected)


def test_the_discard_ratio_counts_the_entries_within_windows():
    probs, _, shares = dense("timm")
    thinned = []
    for number, layer in enumerate(probs):
        fused = layer.mean(1)
        n_tokens = fused.shape[-1]
        windows = [place(token, number, LIBRARIES["timm"])[0] for token in range(n_tokens)]
        pairs = [(i, j) for i in range(n_tokens) for j in range(n_tokens) if windows[i] == windows[j]]
        for sample in fused:
            smallest = sorted(pairs, key=lambda pair: sample[pair].item())[: int(0.6 * len(pairs))]
            for pair in smallest:
                sample[pair] = 0
        thinned.append(mixed(fused))

    matrix = AttentionRollout(model_of("timm"), discard_ratio=0.6).matrix(images())

    assert_same(matrix, product(thinned, shares))


@pytest.mark.parametrize("name", ["timm", "timm_v2", "hf_v2"])
def test_gradients_in_windows_are_those_of_autograd(name):
    model, kept = copy.deepcopy(model_of(name)), []

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    for path, module in model.named_modules():
        # The probabilities pass through this dropout, which drops nothing in evaluation mode.
        if path.endswith((".attn_drop", "attention.self.dropout")):
            module.register_forward_hook(keep)
    output = model(images().requires_grad_())
    (output if isinstance(output, Tensor) else output.logits)[torch.arange(3), TARGETS].sum().backward()
    expected = [evidence(probs.detach(), probs.grad) for probs in kept]

    layers_found = GradientRollout(model_of(name)).layer_attention(images(), TARGETS)

    assert len(expected) == 4
    for number, (layer, by_window) in enumerate(zip(layers_found, expected, strict=True)):
        assert_same(layer, whole_maps(by_window[:, None], number, LIBRARIES[name], 3)[:, 0])


# Where relevance lies, without any arithmetic of windows.


# Windows of 3 x 3 on 11 x 17 patches, merged to 6 x 9: small enough for a token not to depend on the whole image.
WIDE = (44, 68)
SMALL_WINDOWS = {
    "timm": partial(_timm_swin, "eager", "v1", img_size=WIDE, window_size=3),
    "timm_v2": partial(_timm_swin, "eager", "v2", img_size=WIDE, window_size=3, always_partition=False),
    "hf": partial(_hf_swin, "eager", "Swin", image_size=WIDE),
    "hf_v2": partial(_hf_swin, "eager", "Swinv2", image_size=WIDE),
    "torchvision": partial(_torchvision_swin, "eager", "v1", window_size=3),
    "torchvision_v2": partial(_torchvision_swin, "eager", "v2", window_size=3),
}


@pytest.mark.parametrize("name", SMALL_WINDOWS)
@pytest.mark.parametrize("token", [0, 8, 45, 53])
def test_a_last_token_has_shares_of_exactly_the_patches_that_its_value_depends_on(name, token):
    torch.manual_seed(0)
    model, batch = SMALL_WINDOWS[name]().eval().double(), images(1, WIDE).requires_grad_()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    value = LIBRARIES[name].tokens(model, batch)[0, token, 3]
    (gradient,) = torch.autograd.grad(value, batch)
    # What a shift mask hides from a window has exp(-100) of its attention.
    depends = gradient[0].abs().sum(0).reshape(11, 4, 17, 4).sum((1, 3)) > 1e-30

    shares = AttentionRollout(model, readout=token).attribute(batch.detach(), return_input_shape=False)[0, 0]

    assert torch.equal(shares > 1e-30, depends)
    assert 20 < depends.sum() < 170


@every_library
def test_changing_a_patch_changes_its_windows_alone_in_the_first_layer(name):
    library = LIBRARIES[name]
    window = place(3 * 11 + 9, 0, library)[0]
    within = torch.tensor([place(token, 0, library)[0] == window for token in range(77)])
    changed = images(1)
    changed[..., 12:16, 36:40] += 1.0

    before, after = (RawAttention(model_of(name)).layer_attention(batch)[0][0] for batch in (images(1), changed))

    assert torch.equal((before != after).any(-1), within)


def test_libraries_with_the_same_weights_have_the_same_map_where_nothing_is_padded():
    ours = _torchvision_swin("eager", "v1").eval().double()
    other = _timm_swin("eager", "v1", img_size=(32, 64), always_partition=False).eval().double()
    renamed = {
        "features.0.0.": "patch_embed.proj.",
        "features.0.2.": "patch_embed.norm.",
        "features.1.": "layers.0.blocks.",
        "features.2.": "layers.1.downsample.",
        "features.3.": "layers.1.blocks.",
        "head.": "head.fc.",
    }
    weights = {}
    for key, value in ours.state_dict().items():
        start = next((prefix for prefix in renamed if key.startswith(prefix)), "")
        name = renamed.get(start, "") + key[len(start) :]
        weights[name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")] = value
    weights = {key: value for key, value in weights.items() if not key.endswith("relative_position_index")}
    assert not other.load_state_dict(weights, strict=False).unexpected_keys
    batch = images(2, (32, 64))
    torch.testing.assert_close(ours(batch), other(batch), rtol=0, atol=1e-12)

    relevance = GradientRollout(ours).attribute(batch, target=[0, 3])

    assert_same(relevance, GradientRollout(other).attribute(batch, target=[0, 3]), 1e-10)


# Sizes, batches and blocks.


@pytest.mark.parametrize("name", ["hf", "torchvision", "torchvision_v2"])
@pytest.mark.parametrize("size", [(35, 50), (64, 32)])
def test_other_image_sizes_are_explained_and_samples_do_not_mix(name, size):
    # One library keeps the shift that a smaller image switched off.
    model, batch = LIBRARIES[name].build().eval().double(), images(3, size)
    method = GradientRollout(model)

    relevance = method.attribute(batch, TARGETS)

    assert relevance.shape == (3, 3, *size)
    for sample in range(3):
        alone = method.attribute(batch[sample : sample + 1], TARGETS[sample])
        assert_same(relevance[sample : sample + 1], alone, 1e-10)


def test_a_model_of_timm_without_a_fixed_size_takes_others():
    model = _timm_swin("eager", "v1", always_partition=False, strict_img_size=False).eval().double()

    shares = AttentionRollout(model).attribute(images(2, (36, 52)), return_input_shape=False)

    assert shares.shape == (2, 1, 9, 13)
    torch.testing.assert_close(shares.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="whole patches of 4 x 4"):
        AttentionRollout(model).attribute(images(2, (37, 52)))


@pytest.mark.parametrize("name", ["timm", "hf"])
def test_blocks_of_few_windows_give_the_same_map(name):
    method = GradientRollout(model_of(name), sign="signed")
    expected = method.attribute(images(), TARGETS)
    matrices = method.layer_attention(images(), TARGETS)
    method.max_chunk_bytes = 3 * 2 * 16 * 16 * 8

    assert_same(method.attribute(images(), TARGETS), expected)
    for layer, one in zip(method.layer_attention(images(), TARGETS), matrices, strict=True):
        assert_same(layer, one)


def test_windows_without_a_weight_are_left_out(monkeypatch):
    seen = []
    whole = layers.call_probabilities

    def counted(call: Any) -> Tensor:
        probabilities = whole(call)
        seen.append(len(probabilities))
        return probabilities

    monkeypatch.setattr(layers, "call_probabilities", counted)

    RawAttention(model_of("timm"), readout=0).attribute(images())

    assert seen == [3]  # one of the two windows of each sample


# What is refused.


@pytest.mark.parametrize("method", [AttentionFlow, GeneralizedAttentionFlow])
def test_flow_refuses_windows_and_says_what_follows_them(method):
    with pytest.raises(UnsupportedAttentionError, match=r"merges tokens between stages \(timm_swin\).*GradientRollout"):
        method(model_of("timm")).attribute(images())


def test_the_layers_of_vit_explain_cannot_be_paired_across_stages():
    with pytest.raises(UnsupportedAttentionError, match="pairs layers from both ends"):
        GradientRollout(model_of("timm"), gradients="vit_explain").attribute(images(), TARGETS)


@pytest.mark.parametrize("options", [{"grid": (11, 7)}, {"prefix_tokens": 1}])
def test_a_grid_that_the_tokens_do_not_have_is_refused(options):
    with pytest.raises(UnsupportedAttentionError, match="followed from 7 x 11 patches"):
        AttentionRollout(model_of("timm"), **options).attribute(images())


def test_maximum_pooling_is_asked_about():
    model = _timm_swin("eager", "v1", global_pool="max").eval().double()

    with pytest.raises(UnknownModelError, match="which tokens the head of"):
        AttentionRollout(model).attribute(images(1, (24, 40)))

    assert AttentionRollout(model, readout="mean").attribute(images(1, (24, 40))).any()


def test_a_model_in_training_mode_is_told_to_leave_it():
    timm = pytest.importorskip("timm")
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1), num_heads=(2, 4)).train()

    with (
        pytest.warns(TrainingModeWarning),
        pytest.raises(UnsupportedAttentionError, match=r"in training mode, .* Call model\.eval\(\) first"),
    ):
        AttentionRollout(model).attribute(torch.randn(2, 3, 56, 56))
