"""Captum's metrics through our adapters."""

import captum.metrics
import pytest
import torch
from tiny_models import FAMILIES
from torch import nn

from attrib_plugin import AttentionRollout, GradientRollout
from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import TokenMask, TokenSwap, infidelity, max_sensitivity


@pytest.fixture
def bert():
    torch.manual_seed(0)
    return FAMILIES["bert"].build("sdpa").eval()


def test_the_gradient_of_a_linear_model_has_no_infidelity_and_its_negative_has():
    model = nn.Linear(6, 3).double()
    inputs, gradient = torch.rand(2, 6, dtype=torch.float64), model.weight[1].detach().expand(2, -1)

    good = infidelity(model, inputs, gradient, 0.1, target=1, normalize=False)
    bad = infidelity(model, inputs, -gradient, 0.1, target=1, normalize=False)

    torch.testing.assert_close(good, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-20)
    assert (bad > 1e-4).all()


def test_infidelity_is_captums_own():
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    images, maps = torch.rand(2, 1, 4, 6), torch.rand(2, 1, 4, 6)

    def noise(inputs):
        change = 0.3 * torch.randn_like(inputs)
        return change, inputs - change

    torch.manual_seed(1)
    ours = infidelity(model, images, maps, 0.3, target=2)
    torch.manual_seed(1)
    theirs = captum.metrics.infidelity(model, noise, images, maps, target=2, normalize=True).detach()

    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_text_models_of_transformers_need_no_wrapper(bert):
    ids, mask = torch.randint(3, 60, (2, 7)), torch.ones(2, 7).long()
    relevance = GradientRollout(bert).attribute(ids, target=1, additional_forward_args=(mask,))

    found = infidelity(bert, ids, relevance, TokenMask(3, share=0.3, seed=0), target=1, additional_forward_args=(mask,))

    assert found.shape == (2,)
    assert (found >= 0).all()


def test_sensitivity_is_captums_own(bert):
    images = torch.rand(2, 3, 24, 40)
    attribute = GradientRollout(FAMILIES["timm_vit"].build("sdpa").eval()).attribute

    torch.manual_seed(1)
    ours = max_sensitivity(attribute, images, 0.05, n_perturb_samples=3, target=[1, 2])
    torch.manual_seed(1)
    theirs = captum.metrics.sensitivity_max(attribute, images, perturb_radius=0.05, n_perturb_samples=3, target=[1, 2])

    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    swap = TokenSwap(range(60), share=0.2, seed=0)
    found = max_sensitivity(AttentionRollout(bert).attribute, torch.randint(3, 60, (2, 7)), swap, n_perturb_samples=2)
    assert (found > 0).all()


def test_a_disturbance_that_does_not_suit_the_input_is_refused():
    model, images = nn.Linear(4, 2), torch.rand(2, 4)
    with pytest.raises(InputError, match="a number for floating inputs, found TokenMask"):
        infidelity(model, images, images, TokenMask(3))
    with pytest.raises(InputError, match="TokenMask or TokenSwap for token ids, found float"):
        max_sensitivity(lambda inputs: inputs, images.long(), 0.1)


def test_a_map_of_another_shape_or_with_nan_is_refused():
    model, images = nn.Flatten(), torch.rand(2, 3, 4, 6)
    with pytest.raises(InputError, match=r"found \(2, 1, 2, 3\). Take it with return_input_shape=True"):
        infidelity(model, images, torch.rand(2, 1, 2, 3), 0.1, target=0)
    with pytest.raises(InputError, match="NaN"):
        infidelity(model, images, images * torch.nan, 0.1, target=0)
