"""Presets give what the published implementations give, quirk for quirk, on stock models."""

import numpy as np
import pytest
import torch
from golden_models import IMAGES, PADDED, TEXTS, assert_golden, load_arrays, load_case
from tiny_models import tiny_input, tiny_model
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, capture_attention
from attrib_plugin.errors import NumericsWarning, UnsupportedAttentionError

EXACT = {"rtol": 0.0, "atol": 1e-12}
RATIOS = (0.0, 0.5, 0.9)


def load_vit_explain(name):
    arrays = load_arrays(name).items()
    return {key.removeprefix("vitexplain."): array for key, array in arrays if key.startswith("vitexplain.")}


@pytest.fixture(params=IMAGES)
def image(request):
    return load_case(request.param), load_vit_explain(request.param)


@pytest.fixture(params=TEXTS)
def text(request):
    return load_case(request.param)


@pytest.fixture
def padded():
    return load_case(PADDED)


def patches(method, case, **options):
    return method.attribute(case.inputs, return_input_shape=False, **options)[0, 0]


def heads_of(model, inputs, **keywords):
    return torch.stack(RawAttention(model, readout="cls").head_attention(inputs, forward_kwargs=keywords)).numpy()


def tensors_of(model, inputs, target, **keywords):
    """Attention and its gradient, (L,B,H,N,N)."""
    with capture_attention(model) as captured:
        output = model(inputs, **keywords)
        score = getattr(output, "logits", output)[:, target].sum()
        pairs = [(call.probabilities(), call.gradient(of=score)) for call in captured.calls]
    return tuple(torch.stack(part).numpy() for part in zip(*pairs, strict=True))


def slow_vit_explain(maps, ratio, *, spared, by_own_row):
    """Row of the first token after discarding, adding the identity, dividing and multiplying, for one sample."""
    n_tokens = maps.shape[-1]
    product = np.eye(n_tokens)
    for fused in maps:
        ranked = sorted((fused[i, j], i * n_tokens + j) for i in range(n_tokens) for j in range(n_tokens))
        mixed = fused.copy()
        for _, place in ranked[: int(n_tokens**2 * ratio)]:
            i, j = divmod(place, n_tokens)
            if not spared(i, j):
                mixed[i, j] = 0.0
        mixed = (mixed + np.eye(n_tokens)) / 2
        sums = [sum(row) for row in mixed]
        divided = [[mixed[i, j] / sums[i if by_own_row else j] for j in range(n_tokens)] for i in range(n_tokens)]
        product = np.array(divided) @ product
    return torch.from_numpy(product[0])


# ------------------------------------------------------------------------------------- Chefer 2021a, baselines


def test_chefer2021_vit_raw_attention_is_that_of_the_authors(image):
    case, _ = image

    relevance = patches(RawAttention.from_preset("chefer2021_vit", case.model), case)

    assert_golden(relevance.flatten(), case.arrays["chefer_vit.last_layer_attn.t0"])


def test_chefer2021_bert_raw_attention_is_that_of_the_authors(text):
    relevance = RawAttention.from_preset("chefer2021_bert", text.model).attribute(**text.call)

    assert_golden(relevance, text.arrays["chefer_bert.generate_attn_last_layer"])


def test_chefer2021_vit_rollout_is_that_of_the_authors_from_the_second_layer_on(image):
    case, _ = image

    published = patches(AttentionRollout.from_preset("chefer2021_vit", case.model), case)

    assert_golden(published.flatten()[None], case.arrays["chefer_vit_new.rollout.s1"])
    for start in range(case.n_layers):
        method = AttentionRollout.from_preset("chefer2021_vit", case.model, start_layer=start)
        assert_golden(patches(method, case).flatten()[None], case.arrays[f"chefer_vit_new.rollout.s{start}"])


def test_chefer2021_bert_rollout_is_that_of_the_authors_from_all_layers_on(text):
    published = AttentionRollout.from_preset("chefer2021_bert", text.model).attribute(**text.call)

    assert_golden(published, text.arrays["chefer_bert.generate_rollout.s0"])
    for start in range(min(text.n_layers, 3)):
        method = AttentionRollout.from_preset("chefer2021_bert", text.model, start_layer=start)
        assert_golden(method.attribute(**text.call), text.arrays[f"chefer_bert.generate_rollout.s{start}"])


def test_chefer2021_bert_gives_every_row_of_a_padded_batch_as_it_is_alone(padded):
    raw = RawAttention.from_preset("chefer2021_bert", padded.model).attribute(**padded.call)

    for sample in range(3):
        arrays = {
            name: padded.arrays[f"chefer_bert.row{sample}.{name}"]
            for name in ("generate_attn_last_layer", "generate_rollout.s0", "generate_rollout.s1")
        }
        assert_golden(raw[sample : sample + 1], arrays["generate_attn_last_layer"])
        for start in range(2):
            method = AttentionRollout.from_preset("chefer2021_bert", padded.model, start_layer=start)
            relevance = method.attribute(**padded.call)
            assert_golden(relevance[sample : sample + 1], arrays[f"generate_rollout.s{start}"])


@pytest.mark.parametrize("method", [RawAttention, AttentionRollout])
def test_chefer2021_vit_reads_the_class_token_whatever_the_head_reads(method):
    model, (images, _) = tiny_model("timm_average_of_patches"), tiny_input("timm_average_of_patches")

    relevance = method.from_preset("chefer2021_vit", model).attribute(images)

    preset = method.presets["chefer2021_vit"].options
    assert_close(relevance, method(model, **{**preset, "readout": 0}).attribute(images), **EXACT)
    assert not torch.allclose(relevance, method(model, **{**preset, "readout": None}).attribute(images))


# ------------------------------------------------------------------------------------- vit-explain


@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_vit_explain_rollout_is_that_of_the_repository(image, head_fusion, ratio):
    case, arrays = image
    method = AttentionRollout.from_preset("vit_explain", case.model, head_fusion=head_fusion, discard_ratio=ratio)

    assert_golden(patches(method, case), arrays[f"rollout.{head_fusion}.d{ratio}"])


def test_vit_explain_rollout_runs_as_its_command_line_does(image):
    case, arrays = image

    assert_golden(patches(AttentionRollout.from_preset("vit_explain", case.model), case), arrays["rollout.max.d0.9"])


@pytest.mark.parametrize(("preset", "array"), [("vit_explain", "asrun"), ("vit_explain_fixed", "fixed")])
@pytest.mark.parametrize("ratio", RATIOS)
def test_vit_explain_gradient_rollout_is_that_of_the_repository_for_every_class(image, preset, array, ratio):
    case, arrays = image
    method = GradientRollout.from_preset(preset, case.model, discard_ratio=ratio)

    by_target = method.attribute_targets(case.inputs, range(case.n_classes), return_input_shape=False)

    for target, relevance in enumerate(by_target):
        assert_golden(relevance[0, 0], arrays[f"grad_rollout_{array}.t{target}.d{ratio}"])


def test_vit_explain_gradient_rollout_discards_nine_in_ten_by_itself(image):
    case, arrays = image

    for preset, array in (("vit_explain", "asrun"), ("vit_explain_fixed", "fixed")):
        relevance = patches(GradientRollout.from_preset(preset, case.model), case, target=1)
        assert_golden(relevance, arrays[f"grad_rollout_{array}.t1.d0.9"])


@pytest.mark.parametrize("internal_batch_size", [None, 2])
def test_vit_explain_gives_every_image_of_a_batch_what_the_repository_gives_one(internal_batch_size):
    cases, arrays = [load_case(name) for name in IMAGES], [load_vit_explain(name) for name in IMAGES]
    images, model, targets = torch.cat([case.inputs for case in cases]), cases[0].model, [3, 0, 2]
    options = {"return_input_shape": False, "internal_batch_size": internal_batch_size}

    rollout = AttentionRollout.from_preset("vit_explain", model).attribute(images, **options)
    gradient = GradientRollout.from_preset("vit_explain", model).attribute(images, target=targets, **options)

    for sample, target in enumerate(targets):
        assert_golden(rollout[sample, 0], arrays[sample]["rollout.max.d0.9"])
        assert_golden(gradient[sample, 0], arrays[sample][f"grad_rollout_asrun.t{target}.d0.9"])


def test_vit_explain_fixed_rollout_agrees_with_slow_loops():
    model, (images, _) = tiny_model("timm_vit"), tiny_input("timm_vit", batch_size=2)
    fused = heads_of(model, images).max(2)

    relevance = AttentionRollout.from_preset("vit_explain_fixed", model).attribute(images, return_input_shape=False)

    for sample, found in enumerate(relevance):
        row = slow_vit_explain(fused[:, sample], 0.9, spared=lambda i, j: 0 in (i, j), by_own_row=True)
        assert_close(found.flatten(), row[1:] / row[1:].max(), **EXACT)


@pytest.mark.parametrize("preset", ["vit_explain", "vit_explain_fixed"])
def test_vit_explain_on_oblong_images_of_many_prefix_tokens_agrees_with_slow_loops(preset):
    model, (images, _) = tiny_model("timm_registers"), tiny_input("timm_registers", batch_size=1)
    attention, gradients = (part[:, 0] for part in tensors_of(model, images, target=2))
    if preset == "vit_explain":
        inner = (attention * gradients).sum(-1, keepdims=True)
        gradients = (attention * (gradients - inner))[::-1]
    evidence = (attention * gradients).mean(1).clip(min=0)

    method = GradientRollout.from_preset(preset, model, discard_ratio=0.4)
    relevance = method.attribute(images, target=2, return_input_shape=False)

    row = slow_vit_explain(evidence, 0.4, spared=lambda i, j: False, by_own_row=False)
    assert relevance.shape == (1, 1, 3, 5)
    assert_close(relevance.flatten(), row[5:] / row[5:].max(), **EXACT)


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout])
@pytest.mark.parametrize("preset", ["vit_explain", "vit_explain_fixed"])
def test_vit_explain_gives_every_row_of_a_padded_batch_as_it_is_alone(padded, method, preset):
    explainer = method.from_preset(preset, padded.model)
    target = {"target": 1} if method is GradientRollout else {}

    batch = explainer.attribute(**padded.call, **target)

    for sample, name in enumerate(TEXTS[:3]):
        alone = explainer.attribute(**load_case(name).call, **target)[0]
        assert_close(batch[sample, : len(alone)], alone, **EXACT)
        assert not batch[sample, len(alone) :].any()


def test_vit_explain_pairs_layers_from_both_ends_of_the_model_in_every_row(image):
    case, _ = image
    method = GradientRollout.from_preset("vit_explain", case.model, discard_ratio=0.0, divide_by="nothing")
    attention, gradients = (part[:, 0] for part in tensors_of(case.model, case.inputs, target=4))
    inner = (attention * gradients).sum(-1, keepdims=True)
    evidence = (attention * (attention * (gradients - inner))[::-1]).mean(1).clip(min=0)

    rows = method.layer_rows(case.inputs, target=4)
    matrices = method.layer_attention(case.inputs, target=4)

    for layer, (row, matrix) in enumerate(zip(rows, matrices, strict=True)):
        expected = slow_vit_explain(evidence[: layer + 1], 0.0, spared=lambda i, j: False, by_own_row=False)
        assert_golden(row[0], expected)
        assert_golden(matrix[0], torch.from_numpy(evidence[layer]))
    assert_golden(method.matrix(case.inputs, target=4)[0, 0], expected)


def test_vit_explain_of_a_score_without_positive_evidence_is_a_warning_and_no_division_by_zero():
    model, (images, _) = tiny_model("timm_vit"), tiny_input("timm_vit", batch_size=1)
    method = GradientRollout.from_preset("vit_explain_fixed", lambda inputs: 0.0 * model(inputs), model=model)

    with pytest.warns(NumericsWarning, match="relevance of 1 of 1 samples is zero everywhere"):
        relevance = method.attribute(images, target=0)

    assert not relevance.any()


def test_vit_explain_gradients_of_layers_with_other_heads_are_refused():
    from timm.models.vision_transformer import Attention, VisionTransformer

    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=3).eval()
    model.blocks[1].attn = Attention(24, num_heads=2)

    method = GradientRollout.from_preset("vit_explain", model.eval())

    with pytest.raises(UnsupportedAttentionError, match=r"found \(1, 2, 5, 5\) and \(1, 3, 5, 5\)"):
        method.attribute(torch.rand(1, 3, 16, 16), target=0)


# ------------------------------------------------------------------------------------- demos


@pytest.mark.parametrize(("family", "prefix"), [("timm_vit", 1), ("timm_distilled", 2)])
def test_keras_probing_vits_is_the_class_tokens_row_without_prefix_divided_by_its_maximum(family, prefix):
    model, (images, _) = tiny_model(family), tiny_input(family, batch_size=2)
    fused = heads_of(model, images).mean(2)

    relevance = AttentionRollout.from_preset("keras_probing_vits", model).attribute(images, return_input_shape=False)

    for sample, found in enumerate(relevance):
        row = slow_vit_explain(fused[:, sample], 0.0, spared=lambda i, j: False, by_own_row=True)
        assert_close(found.flatten(), row[prefix:] / row[prefix:].max(), **EXACT)


def test_amsterdam_nlp_rollout_leaves_scores_at_their_tokens_and_zeroes_the_first():
    model, (ids, keywords) = tiny_model("roberta"), tiny_input("roberta", batch_size=1)
    fused = heads_of(model, ids, **keywords).mean(2)[:, 0]

    relevance = AttentionRollout.from_preset("amsterdam_nlp", model).attribute(ids, forward_kwargs=keywords)

    expected = slow_vit_explain(fused, 0.0, spared=lambda i, j: False, by_own_row=True)
    assert_close(relevance[0, 1:], expected[1:], **EXACT)
    assert relevance[0, 0] == 0


def test_amsterdam_nlp_gradient_rollout_takes_the_upper_layers_and_zeroes_both_ends():
    model, (ids, keywords) = tiny_model("roberta"), tiny_input("roberta")
    attention, gradients = tensors_of(model, ids, target=1, **keywords)
    evidence = (attention * gradients).clip(min=0).mean(2)  # (L, B, N, N)

    method = GradientRollout.from_preset("amsterdam_nlp", model, start_layer=1)
    relevance = method.attribute(ids, target=1, forward_kwargs=keywords)

    for sample, length in enumerate(keywords["attention_mask"].sum(-1).tolist()):
        product = np.eye(ids.shape[1])
        for layer in (1, 2):
            product = product + evidence[layer, sample] @ product
        assert_close(relevance[sample, 1 : length - 1], torch.from_numpy(product[0, 1 : length - 1]), **EXACT)
        assert not relevance[sample, [0, *range(length - 1, ids.shape[1])]].any()


def test_amsterdam_nlp_gradient_rollout_starts_at_the_ninth_layer():
    model, (ids, keywords) = tiny_model("roberta"), tiny_input("roberta")

    method = GradientRollout.from_preset("amsterdam_nlp", model)

    assert method.start_layer == 8
    with pytest.raises(ValueError, match="start_layer must be one of the 3 layers 0 to 2, not 8"):
        method.attribute(ids, target=1, forward_kwargs=keywords)


# ------------------------------------------------------------------------------------- rows and options


@pytest.mark.parametrize(
    ("method", "preset"),
    [
        (RawAttention, "chefer2021_bert"), (AttentionRollout, "chefer2021_bert"), (AttentionRollout, "vit_explain"),
        (AttentionRollout, "vit_explain_fixed"), (GradientRollout, "vit_explain"),
        (GradientRollout, "vit_explain_fixed"),
    ],
)  # fmt: skip
def test_the_last_row_of_a_preset_is_the_row_that_it_maps(text, method, preset):
    explainer = method.from_preset(preset, text.model)
    target = {"target": 1} if method.needs_gradients else {}

    rows = explainer.layer_rows(**text.call, **target)

    assert_close(rows[-1], explainer.attribute(**text.call, **target), **EXACT)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        (AttentionRollout, "row_normalize", "rows"), (AttentionRollout, "spare", "class_token"),
        (GradientRollout, "row_normalize", "columns"), (GradientRollout, "clamp", "max"),
        (GradientRollout, "gradients", "scores"), (GradientRollout, "discard_ratio", 1.0),
        (RawAttention, "special", "zero"), (AttentionRollout, "divide_by", "sum"),
    ],
)  # fmt: skip
def test_an_option_refuses_what_it_does_not_know(method, option, value):
    with pytest.raises(ValueError, match=f"{option} must be .*, not "):
        method(tiny_model("bert"), **{option: value})


@pytest.mark.parametrize(
    "options",
    [
        {"clamp": "mean"}, {"discard_ratio": 0.3}, {"discard_ratio": 0.3, "row_normalize": True, "clamp": "mean"},
        {"row_normalize": "vit_explain"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("sign", ["positive", "negative", "signed"])
def test_options_of_gradient_rollout_are_those_of_the_formula(options, sign):
    from attrib_plugin.functional import gradient_rollout

    model, (ids, keywords) = tiny_model("bert"), tiny_input("bert", batch_size=1)
    tensors = (torch.from_numpy(part) for part in tensors_of(model, ids, target=2, **keywords))

    matrix = GradientRollout(model, sign=sign, **options).matrix(ids, target=2, forward_kwargs=keywords)

    assert_close(matrix, gradient_rollout(*tensors, sign=sign, **options), **EXACT)


@pytest.mark.parametrize("row_normalize", [False, "vit_explain"])
def test_row_normalisation_of_rollout_is_that_of_the_formula(row_normalize):
    from attrib_plugin.functional import attention_rollout, fuse_heads

    model, (ids, keywords) = tiny_model("bert"), tiny_input("bert", batch_size=1)
    fused = fuse_heads(torch.from_numpy(heads_of(model, ids, **keywords)), "max")

    method = AttentionRollout(model, head_fusion="max", row_normalize=row_normalize, residual=0.3)
    matrix = method.matrix(ids, forward_kwargs=keywords)

    assert_close(matrix, attention_rollout(fused, residual=0.3, row_normalize=row_normalize), **EXACT)
