"""The public classes on stock models with fused attention give what the authors' own code gave."""

import pytest
import torch
from golden_models import IMAGES, PADDED, TEXTS, assert_golden, load_case

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, capture_attention
from attrib_plugin.functional import (
    attention_rollout,
    attention_rollout_rows,
    fuse_heads,
    gradient_rollout,
    gradient_rollout_rows,
)

SINGLES = IMAGES + TEXTS


@pytest.fixture(params=SINGLES)
def single(request):
    return load_case(request.param)


@pytest.fixture(params=IMAGES)
def image(request):
    return load_case(request.param)


@pytest.fixture(params=TEXTS)
def text(request):
    return load_case(request.param)


@pytest.fixture
def padded():
    return load_case(PADDED)


def captured_gradients(case, target):
    with capture_attention(case.model) as captured:
        output = case.model(case.inputs, **case.forward_kwargs)
        score = getattr(output, "logits", output)[:, target].sum()
        return torch.stack([call.gradient(of=score) for call in captured.calls])


# ------------------------------------------------------------------------------------- the models


def test_golden_models_use_fused_attention():
    vision, tiny, real = (load_case(name).model for name in ("vit_tiny_d3.img0", "bert_tiny_l2.s5", "bert_real.sent0"))

    assert all(block.attn.fused_attn for block in vision.blocks)
    assert tiny.config._attn_implementation == real.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", [*SINGLES, PADDED])
def test_golden_models_give_the_logits_of_the_reference(name):
    case = load_case(name)

    with torch.no_grad():
        output = case.model(case.inputs, **case.forward_kwargs)

    assert_golden(getattr(output, "logits", output), case.arrays["logits"])


# ------------------------------------------------------------------------------------- attention and its gradient


@pytest.mark.parametrize("name", [*SINGLES, PADDED])
@pytest.mark.parametrize("method", [RawAttention, AttentionRollout, GradientRollout])
def test_head_attention_is_that_of_the_reference(name, method):
    case = load_case(name)

    attention = method(case.model).head_attention(**case.call)

    assert_golden(torch.stack(attention), case.arrays["attn"])


@pytest.mark.parametrize("name", [*SINGLES, PADDED])
def test_captured_probabilities_are_those_of_the_reference(name):
    case = load_case(name)

    with capture_attention(case.model) as captured:
        case.model(case.inputs, **case.forward_kwargs)

    assert_golden(torch.stack([call.probabilities() for call in captured.calls]), case.arrays["attn"])


@pytest.mark.parametrize("name", [*SINGLES, PADDED])
def test_captured_gradients_are_those_of_the_reference_for_every_class(name):
    case = load_case(name)

    for target in range(case.n_classes):
        assert_golden(captured_gradients(case, target), case.arrays[f"attn_grad.t{target}"])


# ------------------------------------------------------------------------------------- raw attention


def test_raw_attention_of_an_image_is_that_of_chefer_2021(image):
    method = RawAttention.from_preset("chefer2021_vit", image.model)

    patches = method.attribute(image.inputs, return_input_shape=False)

    assert_golden(patches.flatten(), image.arrays["chefer_vit.last_layer_attn.t0"])


def test_raw_attention_of_a_text_is_that_of_chefer_2021_beyond_the_class_token(text):
    relevance = RawAttention(text.model).attribute(**text.call)

    assert_golden(relevance[:, 1:], text.arrays["chefer_bert.generate_attn_last_layer"][:, 1:])


# ------------------------------------------------------------------------------------- attention rollout


@pytest.mark.parametrize(("residual", "array"), [(0.5, "abnar.rollout_res"), (0.0, "abnar.rollout_nores")])
def test_rollout_rows_of_every_layer_and_token_are_those_of_abnar(single, residual, array):
    method = AttentionRollout(single.model, residual=residual)
    expected = single.arrays[array]

    for token in range(0, expected.shape[-1], 4):
        rows = method.layer_rows(**single.call, readout=token)
        assert_golden(torch.cat(rows), expected[:, token])


def test_rollout_rows_without_a_readout_are_those_of_the_class_token(single):
    rows = AttentionRollout.from_preset("abnar2020", single.model).layer_rows(**single.call)

    assert_golden(torch.cat(rows), single.arrays["abnar.rollout_res"][:, 0])


@pytest.mark.parametrize(("overrides", "array"), [({}, "rollout_res"), ({"residual": 0.0}, "rollout_nores")])
def test_rollout_matrix_is_that_of_abnar(single, overrides, array):
    method = AttentionRollout.from_preset("abnar2020", single.model, **overrides)

    matrix = method.matrix(**single.call)

    assert_golden(matrix[0], single.arrays[f"abnar.{array}"][-1])


@pytest.mark.parametrize(("residual", "array"), [(0.5, "abnar.rollout_res"), (0.0, "abnar.rollout_nores")])
def test_rollout_formula_gives_every_layer_of_abnar(single, residual, array):
    attention = fuse_heads(torch.stack(AttentionRollout(single.model).head_attention(**single.call)))
    everything = torch.eye(attention.shape[-1], dtype=attention.dtype)[None]

    for layer, expected in enumerate(single.arrays[array]):
        below = attention[: layer + 1]
        assert_golden(attention_rollout(below, residual=residual)[0], expected)
        assert_golden(attention_rollout_rows(below, everything, residual=residual)[0], expected)


def test_layer_attention_of_the_lowest_layer_is_its_rollout(single):
    (lowest, *_) = AttentionRollout.from_preset("abnar2020", single.model).layer_attention(**single.call)

    assert_golden(lowest[0], single.arrays["abnar.rollout_res"][0])


def test_rollout_matrix_from_any_start_layer_is_that_of_chefer(single):
    for start in range(min(single.n_layers, 3)):
        matrix = AttentionRollout(single.model, start_layer=start).matrix(**single.call)
        assert_golden(matrix, single.arrays[f"chefer_rollout_matrix.s{start}"])


def test_rollout_of_an_image_from_any_start_layer_is_that_of_chefer(image):
    for start in range(image.n_layers):
        method = AttentionRollout.from_preset("abnar2020", image.model, start_layer=start)
        expected = image.arrays[f"chefer_vit_new.rollout.s{start}"]
        assert_golden(method.attribute(image.inputs, return_input_shape=False).flatten(1), expected)
        pixels = expected.reshape(1, 1, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2).expand(-1, 3, -1, -1)
        assert_golden(method.attribute(image.inputs), pixels)


def test_rollout_of_a_text_from_any_start_layer_is_that_of_chefer_beyond_the_class_token(text):
    for start in range(min(text.n_layers, 3)):
        relevance = AttentionRollout(text.model, start_layer=start).attribute(**text.call)
        assert_golden(relevance[:, 1:], text.arrays[f"chefer_bert.generate_rollout.s{start}"][:, 1:])


# ------------------------------------------------------------------------------------- gradient rollout


def test_gradient_rollout_matrix_is_the_generic_rule_for_every_class(single):
    method = GradientRollout.from_preset("chefer2021_generic", single.model)

    for target in range(single.n_classes):
        matrix = method.matrix(**single.call, target=target)
        assert_golden(matrix[0], single.arrays[f"mm_generic.R.t{target}"])


def test_gradient_rollout_row_is_that_of_the_generic_rule_with_the_identity_only_in_the_preset(single):
    preset = GradientRollout.from_preset("chefer2021_generic", single.model)
    plain = GradientRollout(single.model)

    for target in range(single.n_classes):
        row = single.arrays[f"mm_generic.R.t{target}"][0]
        start = torch.eye(len(row), dtype=row.dtype)[0]
        assert_golden(preset.layer_rows(**single.call, target=target)[-1][0], row)
        assert_golden(plain.layer_rows(**single.call, target=target)[-1][0], row - start)


def test_gradient_rollout_of_an_image_is_the_generic_relevance(image):
    method = GradientRollout.from_preset("chefer2021_generic", image.model)

    by_target = method.attribute_targets(image.inputs, range(image.n_classes), return_input_shape=False)

    for target, patches in enumerate(by_target):
        assert_golden(patches.flatten(), image.arrays[f"mm_generic_vit.relevance.t{target}"])


@pytest.mark.parametrize("options", [{}, {"include_identity": True}])
def test_gradient_rollout_without_a_target_explains_the_prediction_of_the_reference(image, options):
    patches = GradientRollout(image.model, **options).attribute(image.inputs, return_input_shape=False)

    assert_golden(patches.flatten(), image.arrays["mm_generic_vit.relevance.pred"])


def test_gradient_rollout_of_a_text_is_the_first_row_of_the_generic_rule(text):
    method = GradientRollout.from_preset("chefer2021_generic", text.model)

    by_target = method.attribute_targets(**text.call, targets=range(text.n_classes))

    for target, relevance in enumerate(by_target):
        assert_golden(relevance, text.arrays[f"mm_generic.R.t{target}"][:1])


def test_gradient_rollout_formula_on_reference_tensors_is_the_generic_rule(single):
    attention = single.arrays["attn"]
    everything = torch.eye(attention.shape[-1], dtype=attention.dtype)[None]

    for target in range(single.n_classes):
        tensors = attention, single.arrays[f"attn_grad.t{target}"]
        expected = single.arrays[f"mm_generic.R.t{target}"][None]
        assert_golden(gradient_rollout(*tensors), expected)
        assert_golden(gradient_rollout_rows(*tensors, everything) + everything, expected)


# ------------------------------------------------------------------------------------- batches


def test_batch_of_images_gives_the_reference_of_each_image():
    cases = [load_case(name) for name in IMAGES]
    images, model = torch.cat([case.inputs for case in cases]), cases[0].model
    targets = [2, 0, 4]

    rollout = AttentionRollout.from_preset("abnar2020", model).matrix(images)
    relevance = GradientRollout.from_preset("chefer2021_generic", model).matrix(images, target=targets)

    for sample, (case, target) in enumerate(zip(cases, targets, strict=True)):
        assert_golden(rollout[sample], case.arrays["abnar.rollout_res"][-1])
        assert_golden(relevance[sample], case.arrays[f"mm_generic.R.t{target}"])


def test_padded_batch_gives_the_rollout_of_each_row_alone(padded):
    method = AttentionRollout.from_preset("abnar2020", padded.model)

    matrix = method.matrix(**padded.call)
    rows = torch.stack(method.layer_rows(**padded.call))
    upper = AttentionRollout.from_preset("abnar2020", padded.model, start_layer=1).matrix(**padded.call)

    for sample in range(3):
        expected = padded.arrays[f"abnar.row{sample}.rollout_res"]
        assert_golden(matrix[sample], expected[-1])
        assert_golden(rows[:, sample], expected[:, 0])
        assert_golden(upper[sample], padded.arrays[f"chefer_rollout_matrix.row{sample}.s1"][0])


def test_padded_batch_gives_the_generic_rule_of_each_row_alone(padded):
    method = GradientRollout.from_preset("chefer2021_generic", padded.model)

    by_target = method.attribute_targets(**padded.call, targets=[0, 1, 2])
    mixed = method.matrix(**padded.call, target=torch.tensor([2, 0, 1]))

    for sample, target in enumerate([2, 0, 1]):
        assert_golden(mixed[sample], padded.arrays[f"mm_generic.row{sample}.R.t{target}"])
        for other in range(3):
            assert_golden(by_target[other, sample], padded.arrays[f"mm_generic.row{sample}.R.t{other}"][0])


@pytest.mark.parametrize(("sample", "name"), list(enumerate(TEXTS[:3])))
def test_padding_adds_tokens_without_relevance_and_changes_no_other(padded, sample, name):
    alone = load_case(name)
    length = alone.inputs.shape[1]

    rollout = AttentionRollout(padded.model).attribute(**padded.call)[sample]
    relevance = GradientRollout.from_preset("chefer2021_generic", padded.model).attribute(**padded.call, target=1)[
        sample
    ]

    assert_golden(rollout[:length], alone.arrays["abnar.rollout_res"][-1, 0])
    assert_golden(relevance[:length], alone.arrays["mm_generic.R.t1"][0])
    assert not rollout[length:].any()
    assert not relevance[length:].any()


def test_internal_batches_of_the_padded_batch_give_the_reference_of_each_row(padded):
    method = GradientRollout.from_preset("chefer2021_generic", padded.model)

    matrix = method.matrix(**padded.call, target=[2, 0, 1], internal_batch_size=2)

    for sample, target in enumerate([2, 0, 1]):
        assert_golden(matrix[sample], padded.arrays[f"mm_generic.row{sample}.R.t{target}"])
