"""``attrib-plugin compare``: several methods on one text or image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from attrib_plugin.app.arguments import CheckpointOption, LabelsOption, ModelOption, TargetOption, complete_method
from attrib_plugin.app.explain_command import class_of
from attrib_plugin.app.reading_inputs import keep_inputs, one_image, one_text
from attrib_plugin.app.terminal import console, progress, say
from attrib_plugin.errors import InputError

compare_app = typer.Typer(help="Compare methods on one input.", no_args_is_help=True)

TEXT_METHODS = ("GradientRollout", "TokenGradCam", "AttentionGradCam", "AttentionRollout", "IntegratedGradients")
IMAGE_METHODS = ("GradientRollout", "TokenGradCam", "AttentionGradCam", "AttentionRollout", "IntegratedGradients")

_Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="A method of 'attrib-plugin methods', METHOD:PRESET, or a class of captum.attr.",
        autocompletion=complete_method,
    ),
]
_Baseline = Annotated[str | None, typer.Option(help="What stands for absence: mask, pad, unk, zero or a token id.")]
_PixelBaseline = Annotated[
    float | None, typer.Option(help="What stands for absence: a pixel value after preprocessing.")
]
_Memory = Annotated[bool, typer.Option(help="Run each method once more to find its peak memory.")]
_Outputs = Annotated[
    list[Path] | None,
    typer.Option("--output", "-o", help="File to write: .html, .png, .json, .csv, .svg or .pdf; may be repeated."),
]


@compare_app.command("text", epilog='Example: attrib-plugin compare text "A gentle film." -m KernelShap -o out.html')
def compare_text(
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    model: ModelOption = "sentiment",
    checkpoint: CheckpointOption = None,
    labels: LabelsOption = None,
    method: _Methods = None,
    target: TargetOption = None,
    baseline: _Baseline = None,
    memory: _Memory = True,
    output: _Outputs = None,
) -> None:
    """Explain the class of a text with several methods."""
    what = one_text(text)
    _check(output, what)
    bundle = _load(model, "text", checkpoint=checkpoint, labels=labels)
    absence = int(baseline) if baseline is not None and baseline.isdigit() else baseline
    found = _compare(
        bundle,
        what,
        method or TEXT_METHODS,
        target,
        baseline=absence,
        memory=memory,
        tokenizer=bundle.tokenizer,
    )
    _show(found, output)


@compare_app.command("image", epilog="Example: attrib-plugin compare image cat.jpg --model photo -o out.html")
def compare_image(
    image: Annotated[str, typer.Argument(help="The image file; - reads it from standard input.")],
    model: ModelOption = "photo",
    checkpoint: CheckpointOption = None,
    labels: LabelsOption = None,
    method: _Methods = None,
    target: TargetOption = None,
    baseline: _PixelBaseline = None,
    memory: _Memory = True,
    output: _Outputs = None,
) -> None:
    """Explain the class of an image with several methods."""
    what = one_image(image)
    _check(output, what)
    bundle = _load(model, "image", checkpoint=checkpoint, labels=labels)
    found = _compare(
        bundle,
        what,
        method or IMAGE_METHODS,
        target,
        baseline=baseline,
        memory=memory,
        processor=bundle.transform,
    )
    _show(found, output or [Path("comparison.png")])


def _load(model: str, modality: Any, **placed: Any) -> Any:
    with progress("loading the model"):
        from attrib_plugin.app.loading import load_model

        return load_model(model, modality, **placed)


def _compare(bundle: Any, what: Any, methods: Any, target: str | None, **options: Any) -> Any:
    from attrib_plugin.runner.compare import compare

    with progress(f"comparing {len(methods)} methods"):
        return compare(
            bundle.model,
            what,
            list(methods),
            target=class_of(target, bundle.labels),
            labels=bundle.labels,
            multilabel=bundle.multilabel,
            **options,
        )


_ENDINGS = (".html", ".json", ".csv", ".png", ".svg", ".pdf")


def _check(output: list[Path] | None, what: Any) -> None:
    """Before anything is computed."""
    for path in output or ():
        if path.suffix not in _ENDINGS:
            raise InputError(f"Expected a name that ends in {', '.join(_ENDINGS)}, found {path.name!r}.")
        if not path.parent.is_dir():
            raise InputError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    keep_inputs(output or (), [what])


def _show(comparison: Any, output: list[Path] | None) -> None:
    best = ", ".join(f"{one.label} {one.probability:.1%}" for one in comparison.predictions[0][:3])
    say(f"predicted: {best}; explained: {comparison.targets[0].label}")
    table = Table("method", "ms", "forward", "samples", "backward", "peak MiB")
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for one in comparison.results:
        peak = "" if one.peak_memory is None else f"{one.peak_memory / 2**20:.1f}"
        passes = (str(one.forward_calls), str(one.forward_samples), str(one.backward_calls), peak)
        table.add_row(Text(one.label), *(("failed",) if one.error else (f"{1000 * one.seconds:.0f}", *passes)))
    console().print(table)
    for one in comparison.results:
        if one.error:
            say(f"{one.label} failed: {one.error}")
    for path in output or ():
        say(f"written: {_save(comparison, path)}")


def _save(comparison: Any, path: Path) -> Path:
    if path.suffix != ".html":
        saved: Path = comparison.save(path)
        return saved
    from attrib_plugin.app.writing import command_line
    from attrib_plugin.runner.comparison_report import write_comparison

    return write_comparison(path, comparison, command=command_line())
