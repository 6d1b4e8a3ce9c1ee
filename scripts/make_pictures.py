"""Make the pictures of README and docs from the demo's own explanations and from an example.

Run: python scripts/make_pictures.py [--output docs/images]
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from attrib_plugin import AttentionGradCam, Explanations, GradientRollout, attention_figures, explain
from attrib_plugin.app import bundled
from attrib_plugin.app.demo import demo_steps
from attrib_plugin.visualization import Panel, image_figure

WIDTH = 1200
TEXT = "The first half is slow, but the ending moved me to tears."


def main(output: Path) -> None:
    """Write one picture a demo step, and the README's picture of digits above photograph."""
    output.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for step in demo_steps():
        section = step.run()
        figure = section.image_figure() or section.explanations[0].figure()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        pictures[step.name] = picture = Image.open(buffer).convert("RGB")
        picture.save(output / f"{step.name.replace(' ', '-')}.png", optimize=True)
    parts = [_to_width(pictures[name]) for name in ("digits", "two objects")]
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    whole.save(output / "readme.png", optimize=True)
    compare_with_gradcam(output)
    attention_pictures(output)
    odd_maps(output)


def attention_pictures(output: Path) -> None:
    """Write the pictures of docs/how-to/pictures.md, of a text and of digits."""
    text, digits = bundled.load("sentiment"), bundled.load("multi-digits")
    shown = attention_figures(text.model, TEXT, tokenizer=text.tokenizer)
    seen = attention_figures(digits.model, digits.examples[-1], processor=digits.transform)
    pictures = {
        "attention-first-last": shown.first_and_last(),
        "attention-heads": shown.heads(),
        "attention-rows": shown.readout_rows(scale="root"),
        "attention-graph": shown.flow_graph("rollout"),
        "attention-flow": shown.flow_graph("flow", source=2),
        "attention-image": seen.over_image(),
    }
    for name, figure in pictures.items():
        _save(figure, output / f"{name}.png")
    reader = {"processor": digits.transform, "labels": digits.labels}
    table = Explanations(
        explain(digits.model, digits.examples[-1], method=method, target=target, **options, **reader)
        for method, options in ((GradientRollout, {"sign": "signed"}), (AttentionGradCam, {}))
        for target in digits.labels[1:8:3]
    )
    _save(table.figures()[0], output / "maps-table.png")


def odd_maps(output: Path) -> None:
    """Write the picture of maps that have no ordinary look."""
    ramp = np.linspace(-1, 1, 36).reshape(6, 6)
    holes = np.where(np.eye(6) > 0, np.nan, ramp)
    panels = [
        Panel("signed", ramp, "signed"),
        Panel("zero", np.zeros((6, 6)), "for"),
        Panel("constant", np.full((6, 6), 0.5), "for"),
        Panel("negative only", -np.abs(ramp), "for"),
        Panel("with NaN", holes, "signed"),
        Panel("negative, signed", -np.abs(ramp), "signed"),
        Panel("share", np.abs(ramp), "share"),
    ]
    ramps = np.repeat(np.mgrid[0:60, 0:60][1][..., None] / 59, 3, axis=-1)
    _save(image_figure(ramps, panels), output / "odd-maps.png", dpi=70)


def _save(figure: Figure, path: Path, *, dpi: int = 90) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)


def compare_with_gradcam(output: Path) -> None:
    """Write the pictures of the comparison with GradCAM, as the example of that name makes them."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import compare_with_gradcam as example

    for name, comparison in (("gradcam", example.compare_digits()), ("gradcam-text", example.compare_text())):
        buffer = io.BytesIO()
        comparison.figure().savefig(buffer, format="png", dpi=100)
        Image.open(buffer).convert("RGB").save(output / f"{name}.png", optimize=True)


def _to_width(picture: Image.Image) -> Image.Image:
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--only-gradcam", action="store_true", help="only the comparison with GradCAM")
    parser.add_argument("--only-attention", action="store_true", help="only the pictures of attention and odd maps")
    arguments = parser.parse_args()
    if arguments.only_attention:
        attention_pictures(arguments.output)
        odd_maps(arguments.output)
    else:
        (compare_with_gradcam if arguments.only_gradcam else main)(arguments.output)
