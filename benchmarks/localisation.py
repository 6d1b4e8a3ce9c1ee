"""Do maps move to the digit that is asked for? Canvases of held-out digits, with exact truth.

Run: python benchmarks/localisation.py [--canvases 400]

Prints a Markdown table: share of the relevance that lies in the quadrant of the asked digit (chance: 0.25), with a
95 % bootstrap interval over digits, and how often that quadrant has more than any other.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from attrib_plugin import AttentionGradCam, AttentionRollout, GradientRollout, RawAttention, TokenGradCam
from attrib_plugin.app import bundled, digit_canvases

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "RawAttention": (RawAttention, {}),
    "AttentionRollout": (AttentionRollout, {}),
    "AttentionGradCam": (AttentionGradCam, {}),
    "TokenGradCam": (TokenGradCam, {}),
    'GradientRollout, sign="positive"': (GradientRollout, {}),
    'GradientRollout, sign="signed", values above zero': (GradientRollout, {"sign": "signed"}),
}


def detected_digits(n_canvases: int) -> tuple[torch.nn.Module, Tensor, Tensor, Tensor]:
    """The model; then image, quadrant and class of every digit that it finds."""
    model = bundled.load("multi-digits").model
    generator = torch.Generator().manual_seed(7)
    canvases = digit_canvases.compose_canvases(digit_canvases.held_out_digits(), n_canvases, generator=generator)
    with torch.no_grad():
        scores = model(canvases.images)
    asked = canvases.quadrants.clamp(min=0)
    canvas, quadrant = ((canvases.quadrants >= 0) & (scores.gather(1, asked) > 0)).nonzero(as_tuple=True)
    return model, canvases.images[canvas], quadrant, asked[canvas, quadrant]


def quadrant_shares(patches: Tensor) -> Tensor:
    """Share (n,4) of every map (n,1,8,8) in each quadrant; negative values count as none, an empty map has none."""
    quarters = patches.clamp(min=0).unflatten(2, (2, 4)).unflatten(4, (2, 4)).sum((1, 3, 5)).flatten(1)
    total = quarters.sum(1, keepdim=True)
    return torch.where(total > 0, quarters / total, 0.0)


def interval(values: Tensor, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = values[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def main(n_canvases: int) -> None:
    model, images, quadrants, classes = detected_digits(n_canvases)
    print(f"{len(images)} digits found on {n_canvases} canvases\n")
    print("| Method | share in the right quadrant | 95 % interval | right quadrant is the largest |")
    print("| --- | --- | --- | --- |")
    for name, (method, options) in METHODS.items():
        target = {"target": classes} if method.needs_gradients else {}
        patches = method(model, **options).attribute(
            images, return_input_shape=False, internal_batch_size=200, **target
        )
        shares = quadrant_shares(patches)
        right = shares.gather(1, quadrants[:, None]).squeeze(1)
        low, high = interval(right)
        largest = ((shares.argmax(1) == quadrants) & (right > 0)).float().mean()
        print(f"| {name} | {right.mean():.3f} | {low:.3f} to {high:.3f} | {largest:.0%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canvases", type=int, default=400)
    main(parser.parse_args().canvases)
