"""The demo: a text, a canvas of digits and a photograph explained by real trained models, offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attrib_plugin import AttentionRollout, GradientRollout
from attrib_plugin.app.bundled import BundledModel, load
from attrib_plugin.errors import MissingDependencyError
from attrib_plugin.runner.explain import explain
from attrib_plugin.runner.explanation import Explanation
from attrib_plugin.runner.report import Section, write_report

SENTENCES = (
    "The acting is superb and the music enchanting, but the plot is a tedious, predictable mess.",
    "Surprisingly tender: I expected a silly comedy and left the cinema deeply moved.",
)


@dataclass(frozen=True)
class DemoStep:
    """One input of the demo.

    Attributes:
        name: What is explained, for the progress display.
        run: Makes its section.
    """

    name: str
    run: Callable[[], Section]


def demo_steps() -> list[DemoStep]:
    """The inputs of the demo, each explained when it is run.

    Returns:
        The steps, in the order of the report.
    """
    texts = [DemoStep(f"text {number}", lambda text=text: _text(text)) for number, text in enumerate(SENTENCES, 1)]  # type: ignore[misc]
    photos = [
        DemoStep("photo", lambda: _photo("A photograph", "cat.jpg", ("cat",))),
        DemoStep("two objects", lambda: _photo("Two objects, two classes", "cat-and-rocket.jpg", ("cat", "rocket"))),
    ]
    return [*texts, DemoStep("digits", _digits), *photos]


def run_demo(
    folder: Path, steps: list[DemoStep], begin: Callable[[DemoStep], None]
) -> Iterator[tuple[Path, Section | None]]:
    """Run the demo and write its report and pictures.

    Args:
        folder: Where to; made if missing.
        steps: What to explain.
        begin: Called before each step.

    Yields:
        Each file as it is written, with the section it shows; the report comes last, with none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = []
    for step in steps:
        begin(step)
        section = step.run()
        sections.append(section)
        path = folder / f"{step.name.replace(' ', '-')}.png"
        figure = section.image_figure() or section.explanations[0].figure()
        figure.savefig(path, dpi=130)
        yield path, section
    report = write_report(
        folder / "report.html", sections, title="attrib_plugin: three models explained", command="attrib-plugin demo"
    )
    yield report, None


def _text(text: str) -> Section:
    bundle = load("sentiment")
    explanations = [
        explain(bundle.model, text, tokenizer=bundle.tokenizer, method=method, **options)
        for method, options in _METHODS
    ]
    return Section(
        "A film review, by a fine-tuned MiniLM",
        explanations,
        "Sub-words are merged to words; the tokens that stand for no word are given below each text.",
    )


def _digits() -> Section:
    bundle = load("multi-digits")
    path = bundle.examples[-1]
    classes = _two_best(bundle, path)
    explanations = [_image(bundle, path, GradientRollout, target=target, sign="signed") for target in classes]
    explanations.append(_image(bundle, path, AttentionRollout))
    return Section(
        "Several digits on one canvas, by a tiny ViT",
        explanations,
        f"Asked for two classes, {bundle.labels[classes[0]]} and {bundle.labels[classes[1]]}, the gradient-weighted "
        "map moves to the digit in question; plain rollout cannot, because it does not know the class.",
    )


def _photo(title: str, name: str, targets: tuple[str, ...]) -> Section:
    from attrib_plugin.app.photo import load_photo_model

    bundle = load_photo_model()
    path = next(path for path in map(Path, bundle.examples) if path.name == name)
    explanations = [_image(bundle, path, GradientRollout, target=target) for target in targets]
    explanations.append(_image(bundle, path, AttentionRollout))
    return Section(
        title,
        explanations,
        "A small head on DINOv2, fitted on a few dozen other photographs: a demonstration, no general classifier. The "
        "head was not fitted on this picture.",
    )


_METHODS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (GradientRollout, {"sign": "positive"}),
    (GradientRollout, {"sign": "negative"}),
    (AttentionRollout, {}),
)


def _image(bundle: BundledModel, path: Any, method: Any, **options: Any) -> Explanation:
    return explain(
        bundle.model,
        path,
        processor=bundle.transform,
        method=method,
        labels=bundle.labels,
        multilabel=bundle.multilabel,
        **options,
    )


def _two_best(bundle: BundledModel, path: Any) -> list[int]:
    from PIL import Image

    if bundle.transform is None:
        raise MissingDependencyError("pillow", "image")
    with Image.open(path) as image, torch.no_grad():
        scores = bundle.model(bundle.transform(image)[None])
    return [int(index) for index in scores[0].topk(2).indices]
