"""Which patches speak for one class and which for another? A stock timm model with fused attention.

Run: python examples/explain_vit.py [--output FOLDER]
"""

import argparse
from pathlib import Path

import torch
from captum.attr import LayerAttribution
from PIL import Image

from attrib_plugin import AttentionRollout, GradientRollout, capture_attention, explain
from attrib_plugin.app import bundled


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    digits = bundled.load("multi-digits")
    model = digits.model
    images = torch.stack([digits.transform(Image.open(path)) for path in digits.examples])
    with torch.no_grad():
        first, second = model(images).topk(2).indices.T

    # 1. Two classes of the same images share one forward pass. One value a patch, then pixels.
    maps = GradientRollout(model).attribute_targets(images, [first, second], return_input_shape=False)
    print("patch maps (target, image, 1, row, column):", tuple(maps.shape))
    smooth = LayerAttribution.interpolate(maps[0], images.shape[-2:], interpolate_mode="bilinear")
    pixels = GradientRollout(model).attribute(images, target=first)
    print("pixel maps:", tuple(smooth.shape), tuple(pixels.shape))

    # 2. Half of the canvas, one number: does the map move when another digit is asked for?
    def left(relevance: torch.Tensor) -> torch.Tensor:
        return relevance[..., :4].sum((-1, -2, -3)) / relevance.sum((-1, -2, -3))

    rollout = AttentionRollout(model).attribute(images, return_input_shape=False)
    for index, classes in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        shares = [float(left(relevance)[index]) for relevance in (*maps, rollout)]
        print(
            f"image {index}, share on the left: class {classes[0]} {shares[0]:.2f}, "
            f"class {classes[1]} {shares[1]:.2f}, rollout for any class {shares[2]:.2f}"
        )

    # 3. The attention tensors themselves, without switching fused attention off.
    with capture_attention(model) as captured:
        score = model(images)[:, 3].sum()
    last = captured.calls[-1]
    print(last.name, tuple(last.probabilities().shape), tuple(last.gradient(of=score).shape))

    # 4. The whole explanation as a picture.
    explanation = explain(
        model, digits.examples[0], processor=digits.transform, labels=digits.labels, multilabel=True, sign="signed"
    )
    print(explanation.save(output / "vit.png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output/examples"))
    main(parser.parse_args().output)
