"""``attrib-plugin compare``: several methods on one text or image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from attrib_plugin.app.arguments import (
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    GridOption,
    JsonOption,
    LabelsOption,
    ModelOption,
    PrefixOption,
    ReadoutOption,
    TargetOption,
    complete_method,
)
from attrib_plugin.app.explain_command import class_of
from attrib_plugin.app.reading_inputs import keep_inputs, one_image, one_text
from attrib_plugin.app.terminal import STATE, console, progress, say
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
    typer.Option(
        "--output",
        "-o",
        help="File to write: .html, .png, .json, .csv, .svg or .pdf; - for JSON on standard output. May be repeated.",
        rich_help_panel="Output",
    ),
]


@compare_app.command("text", epilog='Example: attrib-plugin compare text "A gentle film." -m KernelShap -o out.html')
def compare_text(
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    model: ModelOption = "sentiment",
    checkpoint: CheckpointOption = None,
    labels: LabelsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    method: _Methods = None,
    target: TargetOption = None,
    baseline: _Baseline = None,
    readout: ReadoutOption = None,
    memory: _Memory = True,
    output: _Outputs = None,
    json: JsonOption = False,
) -> None:
    """Explain the class of a text with several methods."""
    what = one_text(text)
    outputs = _outputs(output, json, what)
    bundle = _load(model, "text", checkpoint=checkpoint, labels=labels, device=device, dtype=dtype)
    absence = int(baseline) if baseline is not None and baseline.isdigit() else baseline
    found = _compare(
        bundle,
        what,
        method or TEXT_METHODS,
        target,
        baseline=absence,
        memory=memory,
        **_unknown(readout=readout),
        tokenizer=bundle.tokenizer,
    )
    _show(found, outputs)


@compare_app.command("image", epilog="Example: attrib-plugin compare image cat.jpg --model photo -o out.html")
def compare_image(
    image: Annotated[str, typer.Argument(help="The image file; - reads it from standard input.")],
    model: ModelOption = "photo",
    checkpoint: CheckpointOption = None,
    labels: LabelsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    method: _Methods = None,
    target: TargetOption = None,
    baseline: _PixelBaseline = None,
    readout: ReadoutOption = None,
    grid: GridOption = None,
    prefix_tokens: PrefixOption = None,
    memory: _Memory = True,
    output: _Outputs = None,
    json: JsonOption = False,
) -> None:
    """Explain the class of an image with several methods."""
    what = one_image(image)
    outputs = _outputs(output or (None if json else [Path("comparison.png")]), json, what)
    bundle = _load(model, "image", checkpoint=checkpoint, labels=labels, device=device, dtype=dtype)
    found = _compare(
        bundle,
        what,
        method or IMAGE_METHODS,
        target,
        baseline=baseline,
        memory=memory,
        **_unknown(readout=readout, grid=grid, prefix_tokens=prefix_tokens),
        processor=bundle.transform,
    )
    _show(found, outputs)


def _unknown(*, readout: str | None, grid: str | None = None, prefix_tokens: int | None = None) -> dict[str, Any]:
    """What a model of no known family has to be told."""
    from attrib_plugin.app.method_options import parse_grid, parse_readout

    return {
        "readout": None if readout is None else parse_readout(readout),
        "grid": None if grid is None else parse_grid(grid),
        "prefix_tokens": prefix_tokens,
    }


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
_STDOUT = Path("-")


def _outputs(output: list[Path] | None, json: bool, what: Any) -> list[Path]:
    """Checked before anything is computed."""
    outputs = [path for path in output or () if path != _STDOUT]
    for path in outputs:
        if path.suffix not in _ENDINGS:
            raise InputError(f"Expected a name that ends in {', '.join(_ENDINGS)}, found {path.name!r}.")
        if not path.parent.is_dir():
            raise InputError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    keep_inputs(outputs, [what])
    STATE.results_on_stderr = json or _STDOUT in (output or ())
    return [*outputs, *([_STDOUT] if STATE.results_on_stderr else ())]


def _show(comparison: Any, outputs: list[Path]) -> None:
    from attrib_plugin.runner.explanation import in_words

    say(f"predicted: {in_words(comparison.predictions[0])}; explained: {comparison.targets[0].label}")
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
    for path in outputs:
        if path == _STDOUT:
            typer.echo(comparison.to_json())
        else:
            say(f"written: {_save(comparison, path)}")


def _save(comparison: Any, path: Path) -> Path:
    if path.suffix != ".html":
        saved: Path = comparison.save(path)
        return saved
    from attrib_plugin.app.writing import command_line
    from attrib_plugin.runner.comparison_report import write_comparison

    return write_comparison(path, comparison, command=command_line())
