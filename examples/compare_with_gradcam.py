"""Is it better than GradCAM? Several methods on the same inputs, in one picture and one table.

Run: python examples/compare_with_gradcam.py [--output FOLDER]
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from captum.attr import IntegratedGradients, LayerGradCam
from PIL import Image

from attrib_plugin import (
    AttentionAwareRelevance,
    AttentionGradCam,
    AttentionRollout,
    Comparison,
    GradientRollout,
    TokenGradCam,
    TransformerAttribution,
    compare,
)
from attrib_plugin.app import bundled
from attrib_plugin.evaluation import score_of_map, share_in_cell

QUADRANTS = ("top-left", "top-right", "bottom-left", "bottom-right")


def compare_digits() -> Comparison:
    """Canvases of several digits: the evidence for a digit belongs into its own quadrant."""
    digits = bundled.load("multi-digits")
    truths = json.loads((digits.examples[0].parent / "examples.json").read_text(encoding="utf-8"))
    pairs = zip(digits.examples, truths, strict=True)
    asked = [(path, truth[name], cell) for path, truth in pairs for cell, name in enumerate(QUADRANTS)]
    paths, classes, cells = zip(*(one for one in asked if one[1] is not None), strict=True)
    images = torch.stack([digits.transform(Image.open(path)) for path in paths])

    return compare(
        digits.model,
        images,
        {
            "TokenGradCam": TokenGradCam,
            "AttentionGradCam": AttentionGradCam,
            "LayerGradCam of Captum": LayerGradCam,
            "IntegratedGradients": IntegratedGradients,
            "AttentionRollout": AttentionRollout,
            "GradientRollout": GradientRollout,
            "GradientRollout, signed": partial(GradientRollout, sign="signed"),
            "TransformerAttribution": TransformerAttribution,
            "AttnLRP, gamma": partial(AttentionAwareRelevance, composite="attnlrp_gamma"),
        },
        target=classes,
        scores={"right quadrant": score_of_map(share_in_cell, torch.tensor(cells))},
        labels=digits.labels,
        multilabel=True,
    )


def compare_text() -> Comparison:
    """A sentence with evidence for and against."""
    sentiment = bundled.load("sentiment")
    methods = ["TokenGradCam", "AttentionGradCam", "GradientRollout", "IntegratedGradients", "FeatureAblation"]
    sentence = "The acting is superb, but the plot is a tedious, predictable mess."
    return compare(sentiment.model, sentence, methods, tokenizer=sentiment.tokenizer, labels=sentiment.labels)


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    digits = compare_digits()
    for row in digits.table():
        passes = row["forward_samples"] / len(digits.targets)
        print(f"{row['method']:25} {row['right quadrant']:.2f} in the right quadrant, {passes:.0f} forward a digit")
    for name in ("gradcam.png", "gradcam.html", "gradcam.csv"):
        print(digits.save(output / name))
    print(compare_text().save(output / "gradcam-text.png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output/examples"))
    main(parser.parse_args().output)
