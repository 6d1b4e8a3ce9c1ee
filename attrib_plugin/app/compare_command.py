"""``attrib-plugin compare``: several methods on one text or image."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attrib_plugin.errors import InputError

compare_app = typer.Typer(help="Compare methods on one input.", no_args_is_help=True)

TEXT_METHODS = ("GradientRollout", "TokenGradCam", "AttentionGradCam", "AttentionRollout", "IntegratedGradients")
IMAGE_METHODS = ("GradientRollout", "TokenGradCam", "AttentionGradCam", "AttentionRollout", "IntegratedGradients")

_Model = Annotated[str, typer.Option(help="A bundled model, 'photo', or a transformers folder or name.")]
_Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method", "-m", help="A method of 'attrib-plugin methods', METHOD:PRESET, or a class of captum.attr."
    ),
]
_Target = Annotated[str | None, typer.Option(help="Class to explain, by name or index; default: the predicted one.")]
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
    text: Annotated[str, typer.Argument(help="The text.")],
    model: _Model = "sentiment",
    method: _Methods = None,
    target: _Target = None,
    baseline: _Baseline = None,
    memory: _Memory = True,
    output: _Outputs = None,
) -> None:
    """Explain the class of a text with several methods."""
    from attrib_plugin.app.loading import load_model

    bundle = load_model(model, "text")
    absence = int(baseline) if baseline is not None and baseline.isdigit() else baseline
    found = _compare(
        bundle,
        text,
        method or TEXT_METHODS,
        target,
        output,
        baseline=absence,
        memory=memory,
        tokenizer=bundle.tokenizer,
    )
    _show(found, output)


@compare_app.command("image", epilog="Example: attrib-plugin compare image cat.jpg --model photo -o out.html")
def compare_image(
    image: Annotated[Path, typer.Argument(help="The image file.")],
    model: _Model = "photo",
    method: _Methods = None,
    target: _Target = None,
    baseline: _PixelBaseline = None,
    memory: _Memory = True,
    output: _Outputs = None,
) -> None:
    """Explain the class of an image with several methods."""
    from attrib_plugin.app.loading import load_model

    if not image.is_file():
        raise InputError(f"There is no file {str(image)!r}.")
    bundle = load_model(model, "image")
    found = _compare(
        bundle,
        image,
        method or IMAGE_METHODS,
        target,
        output,
        baseline=baseline,
        memory=memory,
        processor=bundle.transform,
    )
    _show(found, output or [Path("comparison.png")])


def _compare(
    bundle: Any, what: Any, methods: Any, target: str | None, output: list[Path] | None, **options: Any
) -> Any:
    from attrib_plugin.runner.compare import compare

    if wrong := [path.name for path in output or () if path.suffix not in _ENDINGS]:
        raise InputError(f"Expected a name that ends in {', '.join(_ENDINGS)}, found {wrong[0]!r}.")
    if target is not None and target not in bundle.labels and target.isdigit():
        options["target"] = int(target)
    elif target is not None:
        options["target"] = target
    return compare(bundle.model, what, list(methods), labels=bundle.labels, multilabel=bundle.multilabel, **options)


_ENDINGS = (".html", ".json", ".csv", ".png", ".svg", ".pdf")


def _show(comparison: Any, output: list[Path] | None) -> None:
    console = Console()
    best = ", ".join(f"{one.label} {one.probability:.1%}" for one in comparison.predictions[0][:3])
    console.print(Text(f"predicted: {best}; explained: {comparison.targets[0].label}"))
    table = Table("method", "ms", "forward", "samples", "backward", "peak MiB")
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for one in comparison.results:
        peak = "" if one.peak_memory is None else f"{one.peak_memory / 2**20:.1f}"
        passes = (str(one.forward_calls), str(one.forward_samples), str(one.backward_calls), peak)
        table.add_row(Text(one.label), *(("failed",) if one.error else (f"{1000 * one.seconds:.0f}", *passes)))
    console.print(table)
    for one in comparison.results:
        if one.error:
            console.print(Text(f"{one.label} failed: {one.error}"))
    for path in output or ():
        console.print(Text(f"written: {_save(comparison, path)}"))


def _save(comparison: Any, path: Path) -> Path:
    if path.suffix != ".html":
        saved: Path = comparison.save(path)
        return saved
    from attrib_plugin.runner.comparison_report import write_comparison

    return write_comparison(path, comparison, command=shlex.join(["attrib-plugin", *sys.argv[1:]]))
