"""Any mixture of methods on the same inputs: one grid, every cost counted, no failure fatal."""

from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, KernelShap, LayerGradCam, LayerIntegratedGradients, Saliency
from tiny_models import tiny_input, tiny_model
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, TokenGradCam, compare
from attrib_plugin.evaluation import deletion

EXACT = {"rtol": 0.0, "atol": 1e-12}
TARGETS = [1, 4, 2]
MIXTURE = [GradientRollout, "TokenGradCam", AttentionRollout, IntegratedGradients, "Saliency"]


def text_case(n_samples=3):
    ids, keywords = tiny_input("bert", n_samples)
    return tiny_model("bert"), ids, {"forward_kwargs": keywords, "target": TARGETS[:n_samples], "baseline": 0}


def image_case(n_samples=3):
    images, _ = tiny_input("timm_vit", n_samples)
    return tiny_model("timm_vit"), images, {"target": TARGETS[:n_samples]}


def compared(case, methods, **options):
    model, inputs, given = case
    return compare(model, inputs, methods, **{"memory": False, **given, **options})


# Maps.


def test_every_map_is_on_the_patch_grid_and_in_pixels():
    comparison = compared(image_case(), [*MIXTURE, "LayerGradCam", "Occlusion", lambda images, target: images * 0 + 1])

    assert [result.error for result in comparison.results] == [""] * 8
    assert {tuple(result.relevance.shape) for result in comparison.results} == {(3, 1, 3, 5)}
    assert {tuple(result.full.shape) for result in comparison.results} == {(3, 24, 40)}


def test_every_map_is_one_value_a_token():
    comparison = compared(text_case(), [*MIXTURE, "LayerIntegratedGradients", "FeatureAblation", "Occlusion"])

    assert [result.error for result in comparison.results] == [""] * 8
    assert {tuple(result.relevance.shape) for result in comparison.results} == {(3, 7)}


def test_our_methods_give_what_they_give_alone():
    model, images, given = image_case()
    signed = partial(GradientRollout, sign="signed")

    comparison = compared(image_case(), {"ours": signed, "object": TokenGradCam(model, sign="signed")})

    alone = signed(model).attribute(images, given["target"], return_input_shape=False)
    assert_close(comparison["ours"].relevance, alone, **EXACT)
    assert_close(
        comparison["object"].relevance,
        TokenGradCam(model, sign="signed").attribute(images, given["target"], return_input_shape=False),
        **EXACT,
    )
    assert_close(comparison["ours"].full[:, 0, 0], alone[:, 0, 0, 0], **EXACT)


def test_pixels_of_captums_methods_are_summed_over_channels_and_patches():
    model, images, given = image_case()

    comparison = compared(image_case(), [IntegratedGradients], options={"IntegratedGradients": {"n_steps": 4}})

    alone = IntegratedGradients(model).attribute(images, target=given["target"], n_steps=4).sum(1)
    patches = alone.reshape(3, 3, 8, 5, 8).sum((2, 4))
    assert_close(comparison["IntegratedGradients"].relevance[:, 0], patches, rtol=0.0, atol=1e-10)
    assert_close(comparison["IntegratedGradients"].full, alone, rtol=0.0, atol=1e-10)


def test_on_ids_gradient_methods_run_on_embeddings_from_the_stated_baseline():
    model, ids, given = text_case()
    mask = given["forward_kwargs"]["attention_mask"]
    embed = model.get_input_embeddings()

    comparison = compared(text_case(), [IntegratedGradients, LayerIntegratedGradients])

    absent = ids.masked_fill(mask.bool(), 0)
    alone = IntegratedGradients(lambda inputs, mask: model(inputs_embeds=inputs, attention_mask=mask).logits).attribute(
        embed(ids).detach(), embed(absent).detach(), TARGETS, (mask,)
    )
    assert comparison.baseline == "id 0 in place of every token"
    assert_close(comparison["IntegratedGradients"].relevance, alone.sum(-1), rtol=0.0, atol=1e-10)
    # The layer is the same embedding, so the two classes of Captum must agree.
    assert_close(comparison["LayerIntegratedGradients"].relevance, alone.sum(-1), rtol=0.0, atol=1e-10)


def test_zero_embeddings_are_a_baseline_for_gradient_methods_and_none_for_ids():
    comparison = compared(text_case(), ["IntegratedGradients", "FeatureAblation"], baseline="zero")

    assert comparison.baseline == "zero embeddings"
    assert comparison["IntegratedGradients"].error == ""
    assert "Give baseline='mask'" in comparison["FeatureAblation"].error


def test_removing_a_token_is_what_feature_ablation_does_to_ids():
    model, ids, given = text_case(1)

    comparison = compared(text_case(1), ["FeatureAblation"])

    changed = ids.clone()
    changed[0, 2] = 0
    keywords = given["forward_kwargs"]
    with torch.no_grad():
        drop = (model(ids, **keywords).logits - model(changed, **keywords).logits)[0, TARGETS[0]]
    assert_close(comparison["FeatureAblation"].relevance[0, 2], drop, rtol=0.0, atol=1e-10)


def test_captums_layer_grad_cam_runs_on_the_convolution_and_equals_ours_there():
    model = tiny_model("timm_vit")
    ours = partial(TokenGradCam, layer="patch_embed.proj", sign="signed")

    comparison = compared(image_case(), {"theirs": LayerGradCam, "ours": ours})

    assert_close(comparison["theirs"].relevance, comparison["ours"].relevance, rtol=0.0, atol=1e-10)
    assert model.patch_embed.proj._forward_hooks == {}


def test_embeddings_may_be_given_in_place_of_ids():
    model, ids, given = text_case()
    embeddings = model.get_input_embeddings()(ids).detach()

    comparison = compare(
        model,
        embeddings,
        [GradientRollout, Saliency],
        forward_kwargs=given["forward_kwargs"],
        target=TARGETS,
        memory=False,
    )

    assert [result.error for result in comparison.results] == ["", ""]
    of_ids = compared(text_case(), [GradientRollout, Saliency])
    for mine, theirs in zip(comparison.results, of_ids.results, strict=True):
        assert_close(mine.relevance, theirs.relevance, rtol=0.0, atol=1e-10)


def test_a_function_is_a_method_and_gets_the_targets():
    seen = []

    def difference(images, target):
        seen.append(target.tolist())
        return images[:, :, :, :].mean((1,)) - 0.5

    comparison = compared(image_case(), [difference])

    assert seen == [TARGETS]
    assert comparison.results[0].label == "difference"
    assert comparison.results[0].tone == "signed"


@pytest.mark.parametrize(
    ("method", "tone"),
    [
        (GradientRollout, "for"),
        (partial(GradientRollout, sign="signed"), "signed"),
        (AttentionRollout, "share"),
        (Saliency, "size"),
        (IntegratedGradients, "signed"),
        (lambda images, target: images.abs(), "size"),
    ],
)
def test_what_the_values_mean_is_known(method, tone):
    assert compared(image_case(1), [method]).results[0].tone == tone


# Cost.


def test_passes_are_counted_a_method_each():
    comparison = compared(
        image_case(2),
        [GradientRollout, AttentionRollout, IntegratedGradients, "FeatureAblation"],
        options={"IntegratedGradients": {"n_steps": 8}},
        internal_batch_size=4,
    )

    counted = {
        result.label: (result.forward_calls, result.forward_samples, result.backward_calls)
        for result in comparison.results
    }
    assert counted["GradientRollout"] == (1, 2, 1)
    assert counted["AttentionRollout"] == (1, 2, 0)
    # 8 steps of 2 images, 4 at a time.
    assert counted["IntegratedGradients"] == (4, 16, 4)
    # The images as they are, and without each of 15 patches.
    assert counted["FeatureAblation"][1:] == (2 * 16, 0)


def test_times_and_memory_are_measured():
    comparison = compared(image_case(1), [GradientRollout, IntegratedGradients], memory=True)
    rollout, integrated = comparison.results

    assert all(result.seconds > 0 for result in comparison.results)
    assert all(result.cpu_seconds > 0 for result in comparison.results)
    assert 0 < rollout.peak_memory < integrated.peak_memory


def test_scores_are_called_as_evaluation_and_captum_call_theirs():
    comparison = compared(
        image_case(2),
        [GradientRollout],
        scores={"deletion": deletion, "mass": lambda forward, inputs, map, **_: map.sum((1, 2, 3))},
    )

    (result,) = comparison.results
    assert {name: len(values) for name, values in result.scores.items()} == {"deletion": 2, "mass": 2}
    assert comparison.table()[0]["mass"] == pytest.approx(np.mean(result.relevance.sum((1, 2, 3)).tolist()))


def test_a_score_that_fails_is_a_note():
    def broken(*arguments, **options):
        raise RuntimeError("no mask was given")

    (result,) = compared(image_case(1), [GradientRollout], scores={"iou": broken}).results

    assert result.error == ""
    assert result.scores == {}
    assert result.notes == ("score iou: RuntimeError: no mask was given",)


def test_random_methods_start_from_one_seed_and_leave_the_callers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    first = compared(image_case(1), [KernelShap]).results[0].relevance
    second = compared(image_case(1), [GradientRollout, KernelShap]).results[1].relevance

    assert_close(first, second, **EXACT)
    assert_close(torch.rand(2), expected, **EXACT)


# Failures.


def test_a_method_that_fails_is_a_row_with_its_error():
    model, _, _ = image_case()

    def crashing(inputs, target):
        raise RuntimeError("out of\n  luck")

    comparison = compared(
        image_case(),
        {
            "crashing": crashing,
            "on tokens": LayerGradCam(model, model.blocks[2].norm1),
            "nan": lambda inputs, target: inputs * float("nan"),
            "none": lambda inputs, target: None,
            "good": GradientRollout,
        },
    )

    errors = {result.label: result.error for result in comparison.results}
    assert errors["crashing"] == "RuntimeError: out of luck"
    assert "has shape (3, 1, 32)" in errors["on tokens"]
    assert "NaN or infinite" in errors["nan"]
    assert "found NoneType" in errors["none"]
    assert errors["good"] == ""
    assert comparison.table()[0]["seconds"] is None


def test_layer_grad_cam_on_tokens_is_refused_with_the_remedy():
    comparison = compared(text_case(), [LayerGradCam])

    assert "TokenGradCam weighs the tokens" in comparison.results[0].error


def test_warnings_are_notes_and_nothing_is_printed(capfd):
    comparison = compared(image_case(1), [partial(TokenGradCam, layer="norm"), "DeepLift"])

    assert "zero everywhere" in comparison.results[0].notes[0]
    assert capfd.readouterr() == ("", "")


def test_the_model_is_as_before():
    model = tiny_model("timm_vit")
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    flags = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    training = [module.training for module in model.modules()]

    compared(image_case(1), [GradientRollout, TokenGradCam, "DeepLift", "KernelShap", "LayerGradCam"], memory=True)

    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()) == hooks
    assert [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()] == flags
    assert [module.training for module in model.modules()] == training
