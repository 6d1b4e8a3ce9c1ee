"""Sanity checks: class, input shift, and parameters that are shuffled and put back bit for bit."""

import pytest
import torch
from captum.attr import InputXGradient, Saliency
from tiny_models import FAMILIES
from torch import nn

from attrib_plugin import AttentionFlow, AttentionRollout, GradientRollout, RawAttention
from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import (
    class_sensitivity,
    input_invariance,
    parameter_randomisation,
    randomised_parameters,
)

# Captum's gradient methods say so of every tensor that comes without a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")

WEIGHTS = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return FAMILIES["timm_vit"].build("sdpa").eval()


@pytest.fixture
def bert():
    torch.manual_seed(0)
    return FAMILIES["bert"].build("sdpa").eval()


def images():
    return torch.rand(2, 3, 24, 40)


def snapshot(model):
    """Bytes and address of every parameter and buffer."""
    return {name: (value.numpy().tobytes(), value.data_ptr()) for name, value in model.state_dict().items()}


def assert_as_before(model, before):
    assert snapshot(model) == before


def test_class_sensitivity_of_a_worked_example():
    # The map of class c is row c: correlations -1 (0, 1), 1/2 (0, 2) and -1/2 (1, 2); their mean is -1/3.
    found = class_sensitivity(lambda inputs, target: WEIGHTS[target].expand(2, -1), torch.rand(2, 3), [0, 1, 2])

    torch.testing.assert_close(found, torch.full((2,), 4 / 3, dtype=torch.float64))


@pytest.mark.parametrize("method", [RawAttention, AttentionRollout, AttentionFlow])
def test_maps_that_ignore_the_class_have_no_class_sensitivity(method, vit):
    assert class_sensitivity(method(vit).attribute, images(), [0, 3]).tolist() == [0.0, 0.0]


def test_a_map_of_gradients_changes_with_the_class(vit):
    assert (class_sensitivity(GradientRollout(vit).attribute, images(), [0, 3]) > 0.01).all()


def test_one_target_is_nothing_to_compare():
    with pytest.raises(InputError, match="at least two targets"):
        class_sensitivity(lambda inputs, target: inputs, torch.rand(2, 3), [1])


def test_parameters_are_shuffled_and_come_back_bit_for_bit(vit):
    vit.head.bias.data[0] = -0.0
    before, entries = snapshot(vit), vit.head.weight.detach().flatten().sort().values

    with randomised_parameters(vit, ["head", "blocks.2"]):
        inside = snapshot(vit)
        changed = {name for name in inside if inside[name][0] != before[name][0]}
        assert {"head.weight", "blocks.2.attn.qkv.weight"} < changed
        assert not [name for name in changed if not name.startswith(("head", "blocks.2"))]
        assert torch.equal(vit.head.weight.detach().flatten().sort().values, entries)

    assert_as_before(vit, before)


def test_parameters_come_back_after_an_exception(vit):
    before = snapshot(vit)

    with pytest.raises(KeyboardInterrupt), randomised_parameters(vit, [""]):
        raise KeyboardInterrupt

    assert_as_before(vit, before)


def test_randomisation_restores_the_model_when_the_explanation_fails(vit):
    before, calls = snapshot(vit), []

    def explain(inputs, **options):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the third map fails")
        return GradientRollout(vit).attribute(inputs, **options)

    with pytest.raises(RuntimeError, match="the third map fails"):
        parameter_randomisation(explain, images(), vit, target=1)

    assert_as_before(vit, before)


def test_randomisation_touches_no_gradient_no_flag_and_no_random_state(vit):
    vit.head.weight.requires_grad_(False)
    inputs, state = images(), torch.get_rng_state()

    parameter_randomisation(Saliency(vit).attribute, inputs, vit, modules=["head", "norm"], target=1)

    assert torch.equal(torch.get_rng_state(), state)
    assert not vit.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in vit.parameters())


def test_the_cascade_grows_from_the_top_and_single_modules_stand_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    inputs, seen = torch.rand(3, 6), []

    def explain(given, target):
        seen.append([bool((model[part].weight != first[part]).any()) for part in (0, 2)])
        return Saliency(model).attribute(given, target=target, abs=False)

    first = {part: model[part].weight.detach().clone() for part in (0, 2)}
    cascade = parameter_randomisation(explain, inputs, model, target=1)
    parameter_randomisation(explain, inputs, model, target=1, cascade=False)

    assert list(cascade) == ["2", "0"]
    assert seen == [[False, False], [False, True], [True, True], [False, False], [False, True], [True, False]]
    assert all(one.shape == (3,) and one.abs().max() <= 1 for one in cascade.values())


def test_a_map_that_ignores_the_model_survives_every_shuffle():
    model = nn.Linear(4, 2)

    left = parameter_randomisation(lambda inputs: inputs, torch.rand(2, 4), model, modules=[""])

    assert left[""].tolist() == [1.0, 1.0]


def test_a_map_of_the_model_does_not_survive_the_cascade(vit):
    modules = ["head", "norm", "blocks.2", "blocks.1", "blocks.0"]

    left = parameter_randomisation(GradientRollout(vit).attribute, images(), vit, modules=modules, target=1)

    assert left["blocks.0"].abs().max() < 0.9


def test_default_modules_hold_their_own_parameters_only():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model.register_parameter("scale", nn.Parameter(torch.arange(8.0)))
    before, seen = snapshot(model), []

    def explain(inputs):
        seen.append({name for name, value in snapshot(model).items() if value != before[name]})
        return inputs

    left = parameter_randomisation(explain, torch.rand(1, 3), model, cascade=False)

    assert list(left) == ["1", "0", ""]
    assert [{name.rpartition(".")[0] for name in changed} for changed in seen] == [set(), {"1"}, {"0"}, {""}]


def test_modules_that_are_not_there_are_refused(vit):
    with pytest.raises(InputError, match="no module 'tail'"), randomised_parameters(vit, ["tail"]):
        pass
    with pytest.raises(InputError, match="have no parameters"), randomised_parameters(nn.Tanh(), [""]):
        pass


def test_attention_maps_do_not_care_about_a_shift_and_input_times_gradient_does(vit):
    model = vit.double()
    inputs = images().double()

    shifted = input_invariance(GradientRollout(model).attribute, inputs, model, 0.7, target=1)
    product = input_invariance(InputXGradient(model).attribute, inputs, model, 0.7, target=1)

    assert shifted.max() < 1e-10
    assert product.min() > 0.1
    assert not model._forward_pre_hooks


def test_input_shift_of_a_worked_example():
    # The gradient is (1, 2), the input (1, 1): the product is (1, 2), shifted by 1 (2, 4). Change and size are equal.
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])

    found = input_invariance(InputXGradient(model).attribute, torch.ones(1, 2), model, 1.0)

    torch.testing.assert_close(found, torch.tensor([1.0], dtype=torch.float64))


def test_the_hook_is_gone_when_the_explanation_fails():
    model, calls = nn.Linear(2, 1), []

    def explain(inputs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no map")
        return inputs

    with pytest.raises(RuntimeError, match="no map"):
        input_invariance(explain, torch.ones(1, 2), model, 1.0)
    assert not model._forward_pre_hooks


def test_embeddings_that_go_by_keyword_are_shifted_too(bert):
    embeddings = torch.randn(2, 7, 32)

    found = input_invariance(GradientRollout(bert).attribute, embeddings, bert, 0.5, target=1)

    assert found.max() < 1e-4


def test_token_ids_cannot_be_shifted(bert):
    with pytest.raises(InputError, match="token id cannot be shifted"):
        input_invariance(GradientRollout(bert).attribute, torch.ones(1, 4).long(), bert, 1)


def test_maps_with_nan_are_refused():
    with pytest.raises(InputError, match="NaN"):
        class_sensitivity(lambda inputs, target: inputs * torch.nan, torch.rand(2, 3), [0, 1])
