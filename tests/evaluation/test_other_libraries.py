"""Agreement with other libraries that compute the same, where they are installed; adapters of Quantus."""

import sys
import warnings

import pytest
import torch
from tiny_models import FAMILIES
from torch import nn

from attrib_plugin import GradientRollout
from attrib_plugin.errors import InputError, MissingDependencyError
from attrib_plugin.evaluation import (
    comprehensiveness,
    deletion,
    insertion,
    log_odds,
    mass_inside,
    perturbation_curve,
    pointing_game,
    quantus_scores,
    sufficiency,
)

IMAGES = torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(1))
MAPS = torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(2))
TARGET = torch.tensor([2, 0, 1])


@pytest.fixture
def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 9), nn.Tanh(), nn.Linear(9, 3)).eval()


def optional(name):
    """The library, with whatever its import warns about kept quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed: agreement with it is not checked")


# ------------------------------------------------------------------------------------- Quantus


def test_removal_of_pixels_agrees_with_quantus(model):
    optional("quantus")

    theirs = quantus_scores("PixelFlipping", model, IMAGES, MAPS, target=TARGET, features_in_step=1)

    # Quantus leaves out the image as it is, and its "black" is the smallest value of the image.
    fill = IMAGES.flatten(1).amin(1)[:, None, None, None]
    ours = perturbation_curve(model, IMAGES, MAPS, fill, target=TARGET, score="probability")
    torch.testing.assert_close(torch.tensor(theirs).double(), ours.scores[:, 1:], rtol=0, atol=1e-5)


def test_localisation_agrees_with_quantus(model):
    optional("quantus")
    masks = torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(4)) < 0.4

    hits = quantus_scores("PointingGame", model, IMAGES, MAPS, target=TARGET, masks=masks)
    mass = quantus_scores("RelevanceMassAccuracy", model, IMAGES, MAPS, target=TARGET, masks=masks)

    assert pointing_game(MAPS, masks[:, 0]).tolist() == [float(hit) for hit in hits]
    torch.testing.assert_close(mass_inside(MAPS, masks[:, 0]), torch.tensor(mass).double(), rtol=0, atol=1e-6)


def test_quantus_explains_anew_with_our_methods_and_leaves_the_model_alone():
    optional("quantus")
    model = FAMILIES["timm_vit"].build("sdpa").eval()
    model.head.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    found = quantus_scores(
        "MaxSensitivity",
        model,
        torch.rand(2, 3, 24, 40),
        target=torch.tensor([1, 3]),
        explanation_func=GradientRollout(model).attribute,
        nr_samples=2,
    )

    assert len(found) == 2
    assert all(value > 0 for value in found)
    assert model.head.training
    assert not model.blocks.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_quantus_cannot_take_is_refused(model):
    optional("quantus")
    with pytest.raises(InputError, match="no metric 'Nonsense'"):
        quantus_scores("Nonsense", model, IMAGES, MAPS, target=TARGET)
    with pytest.raises(InputError, match=r"Quantus takes images \(B, C, H, W\), found torch.int64"):
        quantus_scores("PixelFlipping", model, torch.ones(2, 5).long(), MAPS, target=TARGET)
    with pytest.raises(InputError, match="NaN"):
        quantus_scores("PixelFlipping", model, IMAGES, MAPS * torch.nan, target=TARGET)


def test_without_quantus_the_error_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "quantus", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'attrib-plugin\[quantus\]'"):
        quantus_scores("PixelFlipping", model, IMAGES, MAPS, target=TARGET)


# ------------------------------------------------------------------------------------- torchcam


class FixedMap:
    """What torchcam's metric asks of an extractor, with a map that is given."""

    def __init__(self, model, maps):
        self.model = model
        self.maps = maps

    def __call__(self, class_idx, scores, **_):
        return [self.maps[:, 0]]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        from contextlib import nullcontext

        return nullcontext()


@pytest.mark.parametrize("steps", [4, 24])
def test_deletion_and_insertion_agree_with_torchcam(model, steps):
    metrics = optional("torchcam.metrics")
    metric = metrics.DeletionInsertionMetric(
        FixedMap(model, MAPS), lambda logits: logits.softmax(-1), steps=steps, batch_size=5
    )

    metric.update(IMAGES, TARGET.tolist())
    theirs = metric.summary()

    removed = deletion(model, IMAGES, MAPS, 0.0, target=TARGET, steps=steps)
    put_back = insertion(model, IMAGES, MAPS, 0.0, target=TARGET, steps=steps)
    assert removed.mean().item() == pytest.approx(theirs["deletion_auc"], abs=1e-5)
    assert put_back.mean().item() == pytest.approx(theirs["insertion_auc"], abs=1e-5)


# ------------------------------------------------------------------------------------- time-interpret


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_rationale_scores_agree_with_time_interpret(model, share):
    tint = optional("tint.metrics")
    inputs, maps = IMAGES.flatten(1), MAPS.flatten(1)
    given = {"baselines": 0.3, "target": TARGET}

    pairs = [
        (comprehensiveness, tint.comprehensiveness),
        (sufficiency, tint.sufficiency),
        (log_odds, tint.log_odds),
    ]

    for ours, theirs in pairs:
        found = ours(model[1:], inputs, maps, shares=(share,), **given).mean().item()
        assert found == pytest.approx(theirs(model[1:], inputs, maps, topk=share, **given), abs=1e-5)
