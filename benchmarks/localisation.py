"""Do maps move to the digit that is asked for? Canvases of held-out digits, with exact truth.

Run: python benchmarks/localisation.py [--canvases 400]

Prints a Markdown table: share of the positive relevance that lies in the quadrant of the asked digit (chance: 0.25),
with a 95 % bootstrap interval over canvases, and how often that quadrant has more than any other.
"""

import argparse
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attrib_plugin import (
    AttentionAwareRelevance,
    AttentionGradCam,
    AttentionRollout,
    GradientRollout,
    RawAttention,
    TokenGradCam,
    TransformerAttribution,
)
from attrib_plugin.app import bundled, digit_canvases
from attrib_plugin.errors import NumericsWarning, TargetIgnoredWarning
from attrib_plugin.evaluation import cell_shares, mean_interval

METHODS: dict[str, Any] = {
    "`RawAttention`": RawAttention,
    "`AttentionRollout`": AttentionRollout,
    "`AttentionGradCam`": AttentionGradCam,
    "`TokenGradCam`": TokenGradCam,
    "`GradientRollout`": GradientRollout,
    '`GradientRollout`, `sign="signed"`': partial(GradientRollout, sign="signed"),
    "`TransformerAttribution`": TransformerAttribution,
    '`AttentionAwareRelevance`, `composite="attnlrp_gamma"`': partial(
        AttentionAwareRelevance, composite="attnlrp_gamma"
    ),
}


def detected_digits(n_canvases: int) -> tuple[torch.nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """The model; then image, canvas, quadrant and class of every digit that it finds."""
    model = bundled.load("multi-digits").model
    generator = torch.Generator().manual_seed(7)
    canvases = digit_canvases.compose_canvases(digit_canvases.held_out_digits(), n_canvases, generator=generator)
    with torch.no_grad():
        scores = model(canvases.images)
    asked = canvases.quadrants.clamp(min=0)
    canvas, quadrant = ((canvases.quadrants >= 0) & (scores.gather(1, asked) > 0)).nonzero(as_tuple=True)
    return model, canvases.images[canvas], canvas, quadrant, asked[canvas, quadrant]


def main(n_canvases: int) -> None:
    model, images, canvases, quadrants, classes = detected_digits(n_canvases)
    print(f"{len(images)} digits found on {n_canvases} canvases\n")
    print("| Method | share in the right quadrant (chance 0.25) | 95 % interval | right quadrant is the largest |")
    print("| --- | --- | --- | --- |")
    for name, method in METHODS.items():
        with warnings.catch_warnings():
            # Class-agnostic methods ignore the digit; where nothing speaks for it, a map is zero.
            warnings.simplefilter("ignore", TargetIgnoredWarning)
            warnings.simplefilter("ignore", NumericsWarning)
            patches = method(model).attribute(images, target=classes, return_input_shape=False, internal_batch_size=200)
        shares = cell_shares(patches.detach())
        right = shares.gather(1, quadrants[:, None]).squeeze(1)
        mean, low, high = mean_interval(right, groups=canvases)
        largest = ((shares.argmax(1) == quadrants) & (right > 0)).float().mean()
        print(f"| {name} | {mean:.3f} | {low:.3f} to {high:.3f} | {largest:.0%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canvases", type=int, default=400)
    main(parser.parse_args().canvases)
