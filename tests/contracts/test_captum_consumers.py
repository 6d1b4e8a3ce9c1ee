"""Everything that Captum users already own takes our methods as they are."""

from __future__ import annotations

import copy
import unittest
import warnings
from typing import Any

import captum
import matplotlib as mpl
import numpy as np
import pytest
import torch
from captum._utils.common import _select_targets
from captum.attr import ClassSummarizer, CommonStats, LayerAttribution, NoiseTunnel, Saliency, visualization
from captum.attr._models.base import _get_deep_layer_name, _set_deep_layer_value
from captum.metrics import infidelity, sensitivity_max
from captum.testing.attr.helpers.gen_test_utils import gen_test_name, parse_test_config
from captum.testing.helpers.basic import assertTensorTuplesAlmostEqual
from contract_methods import METHODS, made
from tiny_models import tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin import RawAttention
from attrib_plugin.errors import InputError, TargetError, TargetIgnoredWarning
from attrib_plugin.evaluation import TokenMask, TokenSwap

mpl.use("Agg")

CLASS_METHODS = {name: method for name, method in METHODS.items() if method.needs_gradients}
TARGETS = [1, 4]

every_method = pytest.mark.parametrize("method_name", METHODS)
every_class_method = pytest.mark.parametrize("method_name", CLASS_METHODS)


def image_case(method_name: str, batch_size: int = 2) -> tuple[Any, nn.Module, Tensor, dict[str, Any]]:
    model = tiny_model("timm_vit")
    inputs, _ = tiny_input("timm_vit", batch_size)
    target = {"target": TARGETS[:batch_size]} if method_name in CLASS_METHODS else {}
    return made(method_name, model), model, inputs, target


def text_case(method_name: str, batch_size: int = 2) -> tuple[Any, nn.Module, Tensor, Tensor, dict[str, Any]]:
    model = tiny_model("bert")
    ids, keywords = tiny_input("bert", batch_size)
    target = {"target": TARGETS[:batch_size]} if method_name in CLASS_METHODS else {}
    return made(method_name, model), model, ids, keywords["attention_mask"], target


def embed(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.get_input_embeddings()(ids)


def repeated(targets: dict[str, list[int]], times: int) -> dict[str, list[int]]:
    return {name: [one for one in values for _ in range(times)] for name, values in targets.items()}


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


# NoiseTunnel.


def smoothed(maps: Tensor, kind: str) -> Tensor:
    """What the noise tunnel makes of maps (B, n, ...)."""
    squares = maps.square().mean(1)
    return {"smoothgrad": maps.mean(1), "smoothgrad_sq": squares, "vargrad": squares - maps.mean(1).square()}[kind]


every_kind = pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])


@every_method
@every_kind
def test_the_noise_tunnel_on_images_equals_our_own_average_over_the_same_noise(method_name, kind):
    method, _, images, target = image_case(method_name)
    torch.manual_seed(5)
    noisy = images.repeat_interleave(3, 0) + torch.normal(0, torch.tensor(0.1).repeat(6, *images.shape[1:]))
    maps = method.attribute(noisy, **repeated(target, 3)).reshape(2, 3, *images.shape[1:])

    torch.manual_seed(5)
    relevance = NoiseTunnel(method).attribute(images, nt_type=kind, nt_samples=3, stdevs=0.1, **target)

    assert_same(relevance, smoothed(maps, kind))


@every_method
@every_kind
def test_the_noise_tunnel_on_embeddings_repeats_the_mask_with_the_samples(method_name, kind):
    method, model, ids, mask, target = text_case(method_name)
    embeddings = embed(model, ids)
    torch.manual_seed(5)
    noisy = embeddings.repeat_interleave(3, 0) + torch.normal(0, torch.tensor(0.05).repeat(6, *embeddings.shape[1:]))
    maps = method.attribute(noisy, additional_forward_args=(mask.repeat_interleave(3, 0),), **repeated(target, 3))

    torch.manual_seed(5)
    relevance = NoiseTunnel(method).attribute(
        embeddings, nt_type=kind, nt_samples=3, stdevs=0.05, additional_forward_args=(mask,), **target
    )

    assert_same(relevance, smoothed(maps.reshape(2, 3, *embeddings.shape[1:]), kind))


@every_method
def test_the_noise_tunnel_without_noise_gives_the_plain_map(method_name):
    method, _, images, target = image_case(method_name)

    relevance = NoiseTunnel(method).attribute(images, nt_samples=2, stdevs=0.0, **target)

    assert_same(relevance, method.attribute(images, **target))


@every_method
def test_the_noise_tunnel_in_partial_batches_takes_tuples_and_patch_maps(method_name):
    method, _, images, target = image_case(method_name)

    (relevance,) = NoiseTunnel(method).attribute(
        (images,), nt_samples=3, nt_samples_batch_size=2, stdevs=0.0, return_input_shape=False, **target
    )

    assert_same(relevance, method.attribute(images, return_input_shape=False, **target))


@every_method
def test_the_noise_tunnel_with_a_mask_as_keyword_is_refused_with_the_remedy(method_name):
    method, model, ids, mask, target = text_case(method_name)

    with pytest.raises(InputError, match=r"2 rows for 6 samples.*additional_forward_args"):
        NoiseTunnel(method).attribute(
            embed(model, ids), nt_samples=3, stdevs=0.1, forward_kwargs={"attention_mask": mask}, **target
        )


@every_class_method
@pytest.mark.parametrize("against", [[0, 3], torch.tensor([0, 3])])
def test_the_noise_tunnel_with_a_contrast_for_each_sample_is_refused(method_name, against):
    method, _, images, target = image_case(method_name)

    with pytest.raises(TargetError, match="does not fit the model's output"):
        NoiseTunnel(method).attribute(images, nt_samples=3, stdevs=0.1, against=against, **target)


def test_the_noise_tunnel_with_a_read_out_for_each_sample_is_refused():
    method, model, ids, mask, _ = text_case("RawAttention")

    with pytest.raises(InputError, match="NoiseTunnel repeats samples but not this keyword"):
        NoiseTunnel(method).attribute(
            embed(model, ids), nt_samples=3, stdevs=0.1, additional_forward_args=(mask,), readout=torch.tensor([0, 1])
        )


def test_a_users_subclass_that_forgets_captums_decorator_still_works():
    class DoubledAttention(RawAttention):
        def attribute(self, inputs, target=None, additional_forward_args=None, **options):
            return 2 * super().attribute(inputs, target, additional_forward_args, **options)

    images, _ = tiny_input("timm_vit", 2)
    method = DoubledAttention(tiny_model("timm_vit"))

    relevance = NoiseTunnel(method).attribute(images, nt_samples=2, stdevs=0.0)

    assert_same(relevance, 2 * RawAttention(tiny_model("timm_vit")).attribute(images))


# captum.metrics.


def expected_infidelity(change: Tensor, relevance: Tensor, difference: Tensor) -> Tensor:
    """Infidelity of one perturbation, from its definition."""
    return torch.stack(
        [
            (sum(change[sample].flatten() * relevance[sample].flatten()) - difference[sample]) ** 2
            for sample in range(len(change))
        ]
    )


def class_scores(logits: Tensor) -> Tensor:
    return logits[torch.arange(len(logits)), TARGETS[: len(logits)]]


@every_method
def test_infidelity_on_images_is_its_definition(method_name):
    method, model, images, target = image_case(method_name)
    relevance = method.attribute(images, **target)
    change = 0.01 * torch.randn_like(images)
    with torch.no_grad():
        difference = class_scores(model(images)) - class_scores(model(images - change))

    found = infidelity(
        model, lambda inputs: (change, inputs - change), images, relevance, target=TARGETS, n_perturb_samples=1
    )

    assert_same(found, expected_infidelity(change, relevance, difference), 1e-10)


@every_method
def test_infidelity_on_embeddings_is_its_definition(method_name):
    method, model, ids, mask, target = text_case(method_name)
    embeddings = embed(model, ids)
    relevance = method.attribute(embeddings, additional_forward_args=(mask,), **target)
    change = 0.01 * torch.randn_like(embeddings)

    def forward(inputs: Tensor, attention_mask: Tensor) -> Tensor:
        return model(inputs_embeds=inputs, attention_mask=attention_mask).logits

    with torch.no_grad():
        difference = class_scores(forward(embeddings, mask)) - class_scores(forward(embeddings - change, mask))

    found = infidelity(
        forward,
        lambda inputs: (change, inputs - change),
        embeddings,
        relevance,
        additional_forward_args=(mask,),
        target=TARGETS,
        n_perturb_samples=1,
    )

    assert_same(found, expected_infidelity(change, relevance, difference), 1e-10)


@every_method
@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_on_token_ids_takes_a_binary_perturbation(method_name, normalize):
    method, model, ids, mask, target = text_case(method_name)
    relevance = method.attribute(ids, additional_forward_args=(mask,), **target)

    def forward(inputs: Tensor, attention_mask: Tensor) -> Tensor:
        return model(inputs, attention_mask=attention_mask).logits

    def options(times: int) -> dict[str, Any]:
        perturbation = TokenMask(3, share=0.3, keep=[1], seed=0)
        return {
            "perturb_func": perturbation.for_infidelity,
            "additional_forward_args": (mask,),
            "target": TARGETS,
            "n_perturb_samples": times,
        }

    found = infidelity(forward, inputs=ids, attributions=relevance, normalize=normalize, **options(4))
    once = infidelity(forward, inputs=ids, attributions=relevance, **options(1))

    changes, perturbed = TokenMask(3, share=0.3, keep=[1], seed=0).for_infidelity(ids)
    with torch.no_grad():
        difference = class_scores(forward(ids, mask)) - class_scores(forward(perturbed, mask))
    assert found.shape == (2,)
    assert found.isfinite().all()
    assert_same(once, expected_infidelity(changes, relevance, difference), 1e-10)


def expected_sensitivity(relevance: Tensor, perturbed: list[Tensor]) -> Tensor:
    """Largest relative change of each sample's map, from the definition."""
    changes = torch.stack(
        [(one - relevance).flatten(1).norm(dim=1) / relevance.flatten(1).norm(dim=1) for one in perturbed]
    )
    return changes.max(0).values


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_on_images_is_its_definition(method_name, batch_size):
    method, _, images, target = image_case(method_name, batch_size)
    steps = 0.02 * torch.randn(batch_size, 3, *images.shape[1:], dtype=images.dtype)
    perturbed = [method.attribute(images + steps[:, draw], **target) for draw in range(3)]

    found = sensitivity_max(
        method.attribute,
        images,
        perturb_func=lambda inputs: (inputs + steps.flatten(0, 1),),
        n_perturb_samples=3,
        **target,
    )

    assert found.shape == (batch_size,)
    assert_same(found, expected_sensitivity(method.attribute(images, **target), perturbed), 1e-10)


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_of_patch_maps_is_its_definition(method_name, batch_size):
    method, _, images, target = image_case(method_name, batch_size)
    step = 0.02 * torch.randn_like(images)
    relevance, perturbed = (
        method.attribute(one, return_input_shape=False, **target) for one in (images, images + step)
    )

    found = sensitivity_max(
        method.attribute,
        images,
        perturb_func=lambda inputs: (inputs + step,),
        n_perturb_samples=1,
        return_input_shape=False,
        **target,
    )

    assert_same(found, expected_sensitivity(relevance, [perturbed]), 1e-10)


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_with_captums_own_noise_runs_on_images_and_embeddings(method_name, batch_size):
    image_method, _, images, target = image_case(method_name, batch_size)
    text_method, model, ids, mask, _ = text_case(method_name, batch_size)

    of_images = sensitivity_max(image_method.attribute, images, n_perturb_samples=2, **target)
    of_embeddings = sensitivity_max(
        text_method.attribute, embed(model, ids), n_perturb_samples=2, additional_forward_args=(mask,), **target
    )

    for found in (of_images, of_embeddings):
        assert found.shape == (batch_size,)
        assert found.isfinite().all()
        assert (found > 0).all()


@every_method
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sensitivity_on_token_ids_takes_a_token_swap(method_name, batch_size):
    method, _, ids, mask, target = text_case(method_name, batch_size)
    perturbed = TokenSwap(range(60), share=0.3, keep=[1], seed=6).perturb(ids.repeat_interleave(3, 0))
    maps = method.attribute(
        perturbed, additional_forward_args=(mask.repeat_interleave(3, 0),), **repeated(target, 3)
    ).reshape(batch_size, 3, -1)

    found = sensitivity_max(
        method.attribute,
        ids,
        perturb_func=TokenSwap(range(60), share=0.3, keep=[1], seed=6).for_sensitivity,
        n_perturb_samples=3,
        additional_forward_args=(mask,),
        **target,
    )

    relevance = method.attribute(ids, additional_forward_args=(mask,), **target)
    assert_same(found, expected_sensitivity(relevance, list(maps.unbind(1))), 1e-10)


# Pictures.


@every_method
@pytest.mark.parametrize("view", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"])
def test_visualize_image_attr_takes_the_map_with_channels_last(method_name, view):
    method, _, images, target = image_case(method_name)
    relevance = method.attribute(images, **target)

    figure, _ = visualization.visualize_image_attr(
        np.transpose(relevance[0].numpy(), (1, 2, 0)),
        np.transpose(images[0].sigmoid().numpy(), (1, 2, 0)),
        method=view,
        sign="positive",
        use_pyplot=False,
    )

    assert figure.axes


@every_method
def test_interpolating_the_patch_map_gives_the_pixel_map(method_name):
    method, _, images, target = image_case(method_name)

    patches = method.attribute(images, return_input_shape=False, **target)
    pixels = LayerAttribution.interpolate(patches, tuple(images.shape[-2:]))

    assert pixels.shape == (len(images), 1, *images.shape[-2:])
    if method.is_native:  # relevance of single pixels; a patch has their sum
        return
    assert_same(pixels.expand_as(images), method.attribute(images, **target))


@every_method
def test_the_class_summarizer_takes_the_maps(method_name):
    method, _, images, target = image_case(method_name)
    summarizer = ClassSummarizer(stats=CommonStats())
    relevance = method.attribute(images, **target)

    summarizer.update(relevance, TARGETS)

    assert_same(summarizer.class_summaries[4][0]["mean"], relevance[1])
    assert_same(summarizer.summary[0]["mean"], relevance.mean(0))


@every_method
def test_captums_word_for_each_method_reads_as_words(method_name):
    words = METHODS[method_name].get_name().split()

    assert all(len(word) > 1 for word in words)
    assert "".join(words) == method_name


@every_method
def test_captums_questions_to_a_method_are_answered(method_name):
    method, _, _, _ = image_case(method_name)

    assert isinstance(method, captum.attr.Attribution)
    assert method.has_convergence_delta() is False
    assert method.multiplies_by_inputs is False


# Targets.

FORMS = [
    1,
    -1,
    torch.tensor(1),
    torch.tensor([1]),
    torch.tensor([1], dtype=torch.int32),
    [0, 2],
    torch.tensor([0, 2]),
    (1,),
    [(1,), (2,)],
]


@every_class_method
@pytest.mark.parametrize("target", FORMS, ids=repr)
def test_a_target_selects_what_captum_selects(method_name, target):
    method, model, images, _ = image_case(method_name)
    selecting = made(method_name, lambda inputs: _select_targets(model(inputs), target), model=model)

    relevance = method.attribute(images, target)

    assert_same(relevance, selecting.attribute(images))


def token_classifier() -> nn.Module:
    import transformers

    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=5
    )
    return transformers.BertForTokenClassification(config).eval().double()


@every_class_method
@pytest.mark.parametrize("target", [(3, 1), [(3, 1), (0, 4)]], ids=repr)
def test_a_target_of_token_classification_names_token_and_class(method_name, target):
    model = token_classifier()
    ids, keywords = tiny_input("bert", 2)
    positions = torch.tensor([3, 3 if isinstance(target, tuple) else 0])

    def selecting(inputs: Tensor, **options: Any) -> Tensor:
        return _select_targets(model(inputs, **options).logits, target)

    relevance = made(method_name, model).attribute(ids, target, forward_kwargs=keywords)

    expected = made(method_name, selecting, model=model, readout=positions)
    assert_same(relevance, expected.attribute(ids, forward_kwargs=keywords))


@every_class_method
@pytest.mark.parametrize("target", [None, 1, [1, 2], (1,)], ids=repr)
def test_a_target_that_leaves_several_scores_a_sample_is_refused(method_name, target):
    ids, keywords = tiny_input("bert", 2)
    method = made(method_name, token_classifier(), readout="cls")

    with pytest.raises(TargetError, match="Target"):
        method.attribute(ids, target, forward_kwargs=keywords)
    with pytest.raises(AssertionError, match="Target"):
        method.attribute(ids, target, forward_kwargs=keywords)


def error_of(attribute: Any, *arguments: Any, **options: Any) -> type[Exception] | None:
    try:
        attribute(*arguments, **options)
    except Exception as error:
        return type(error)
    return None


REFUSED = [torch.tensor([[0], [2]]), torch.tensor([1.0]), [1], [0, 1, 2], torch.tensor([0, 1, 2]), "1", 1.0]
BEYOND = [99, -6, (99,), [(99,), (1,)]]
BEYOND_FOR_GATHER = [[0, 99], torch.tensor([0, 99]), torch.tensor(99)]


@every_class_method
@pytest.mark.parametrize("target", REFUSED + BEYOND, ids=repr)
def test_a_wrong_target_raises_what_captum_raises(method_name, target):
    method, model, images, _ = image_case(method_name)
    captums = error_of(Saliency(model).attribute, images.clone().requires_grad_(), target)

    ours = error_of(method.attribute, images, target)

    assert captums in (AssertionError, IndexError)
    assert ours is TargetError
    assert issubclass(ours, captums)


@every_class_method
@pytest.mark.parametrize("target", BEYOND_FOR_GATHER, ids=repr)
def test_a_class_that_does_not_exist_is_an_index_error_in_every_form(method_name, target):
    method, _, images, _ = image_case(method_name)

    with pytest.raises(IndexError, match="out of range: the model has 5 classes, 0 to 4"):
        method.attribute(images, target)


@every_class_method
@pytest.mark.parametrize("target", [True, [True, False], torch.tensor([True, False]), (True,)], ids=repr)
def test_a_bool_is_no_target(method_name, target):
    method, _, images, _ = image_case(method_name)

    with pytest.raises(TargetError, match="must be an int, not a bool"):
        method.attribute(images, target)


@every_method
def test_a_list_of_inputs_is_refused_as_captum_refuses_it(method_name):
    method, model, images, _ = image_case(method_name)

    with pytest.raises(InputError, match="found list"):
        method.attribute([images])
    assert error_of(Saliency(model).attribute, [images], 1) is AssertionError


# Captum's own test plan, driven by a configuration in its schema. Its tests are not in the wheel, its helpers are.

IMAGES = tiny_input("timm_vit", 4)[0]
IDS, MASK = tiny_input("bert", 4)[0], tiny_input("bert", 4)[1]["attention_mask"]

CONFIG: list[dict[str, Any]] = [
    {
        "name": "image_list_targets",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("timm_vit"),
        "attribute_args": {"inputs": IMAGES, "target": [0, 1, 4, 0]},
        "layer": "blocks.1",
    },
    {
        "name": "image_tensor_targets",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("timm_average"),
        "attribute_args": {"inputs": IMAGES, "target": torch.tensor([3, 1, 1, 2])},
        "layer": "norm",
    },
    {
        "name": "text_tuple_targets",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("bert"),
        "attribute_args": {
            "inputs": IDS,
            "additional_forward_args": (MASK,),
            "target": [(0,), (1,), (4,), (0,)],
        },
        "layer": "bert.encoder.layer.1",
    },
    {
        "name": "image_tunnel",
        "algorithms": list(METHODS.values()),
        "model": tiny_model("torchvision_vit"),
        "attribute_args": {
            "inputs": tiny_input("torchvision_vit", 4)[0],
            "target": [0, 1, 2, 0],
            "nt_samples": 2,
            "stdevs": 0.0,
        },
        "layer": "encoder.layers",
        "noise_tunnel": True,
    },
]

RUNS = [
    pytest.param(test_config, algorithm, id=gen_test_name("test", test_config["name"], algorithm, noise_tunnel=False))
    for test_config in CONFIG
    for algorithm in test_config["algorithms"]
]
every_run = pytest.mark.parametrize(("test_config", "algorithm"), RUNS)


class FailingLayer(nn.Module):
    """What Captum's plan puts in a layer's place."""

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        raise AssertionError("This layer fails.")


def attribution_of(test_config: dict[str, Any], algorithm: Any, model: nn.Module) -> tuple[Any, dict[str, Any]]:
    _, _, arguments, _, noise_tunnel, _ = parse_test_config(test_config)
    method = algorithm(model)
    return NoiseTunnel(method) if noise_tunnel else method, dict(arguments)


def run(attribution: Any, arguments: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TargetIgnoredWarning)
        return attribution.attribute(**arguments)


def n_hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@every_run
@pytest.mark.parametrize("mode", ["normal", "incorrect_target_or_neuron", "invalid_module"])
def test_no_hook_remains(test_config, algorithm, mode):
    model = copy.deepcopy(test_config["model"])
    if mode == "invalid_module":
        assert _get_deep_layer_name(model, test_config["layer"]) is not None
        _set_deep_layer_value(model, test_config["layer"], FailingLayer())
    attribution, arguments = attribution_of(test_config, algorithm, model)
    fails = mode == "invalid_module"
    if mode == "incorrect_target_or_neuron":
        arguments["target"] = (9999,) * 20
        fails = algorithm.needs_gradients

    if fails:
        with pytest.raises(AssertionError, match=r"Target|This layer fails"):
            run(attribution, arguments)
    else:
        run(attribution, arguments)

    assert n_hooks(model) == 0


def of_one_sample(value: Any, sample: int) -> Any:
    if isinstance(value, tuple):
        return tuple(of_one_sample(part, sample) for part in value)
    if isinstance(value, (list, Tensor)):
        return value[sample : sample + 1]
    return value


@every_run
def test_a_batch_of_targets_equals_a_loop_over_samples(test_config, algorithm):
    attribution, arguments = attribution_of(test_config, algorithm, test_config["model"])
    together = run(attribution, arguments)

    for sample in range(4):
        alone = run(attribution, {name: of_one_sample(value, sample) for name, value in arguments.items()})
        # Captum's own helper and its default tolerance, tightened from 1e-4.
        assertTensorTuplesAlmostEqual(
            unittest.TestCase(), together[sample : sample + 1], alone, delta=1e-10, mode="max"
        )
