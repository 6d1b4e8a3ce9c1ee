"""Make the pictures of README and docs from the demo's own explanations and from an example.

Run: python scripts/make_pictures.py [--output docs/images]
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

from attrib_plugin.app.demo import demo_steps

WIDTH = 1200


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
    arguments = parser.parse_args()
    (compare_with_gradcam if arguments.only_gradcam else main)(arguments.output)
