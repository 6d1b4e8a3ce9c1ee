"""``attrib-plugin explain``: what predictions rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from attrib_plugin.app.arguments import (
    AgainstOption,
    BatchOption,
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    FormatOption,
    GridOption,
    JsonOption,
    LabelsOption,
    LayersOption,
    MethodOption,
    MethodOptions,
    ModelOption,
    OutputsOption,
    PrefixOption,
    PresetOption,
    ReadoutOption,
    SignOption,
    TargetOption,
)
from attrib_plugin.app.reading_inputs import Given, images, keep_inputs, texts
from attrib_plugin.app.terminal import STATE, console, note, progress, say
from attrib_plugin.errors import InputError

explain_app = typer.Typer(help="Explain predictions: what of the input they rest on.", no_args_is_help=True)

_TEXT_EXAMPLES = """Examples:

attrib-plugin explain text "A gentle, moving film." --sign signed

attrib-plugin explain text "A gentle, moving film." -m AttentionRollout --layers 2:5 -o film.html

attrib-plugin explain text --file reviews.txt --json | jq '.[].target.label'

cat reviews.txt | attrib-plugin explain text - -o reviews.html"""

_IMAGE_EXAMPLES = """Examples:

attrib-plugin explain image cat.jpg --target cat -o cat.png

attrib-plugin explain image cat.jpg -m AttentionRollout:vit_explain -o cat.html

attrib-plugin explain image photos/ -o maps/ --format npz

attrib-plugin explain image cat.jpg --model timm:vit_small_patch16_224 --checkpoint mine.safetensors"""


@explain_app.command("text", epilog=_TEXT_EXAMPLES)
def explain_text(
    text: Annotated[list[str] | None, typer.Argument(help="Texts; - reads one a line from standard input.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A text file, one text a line, or a folder of .txt files; may be repeated."),
    ] = None,
    model: ModelOption = "sentiment",
    checkpoint: CheckpointOption = None,
    labels: LabelsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    method: MethodOption = "GradientRollout",
    preset: PresetOption = None,
    option: MethodOptions = None,
    sign: SignOption = None,
    layers: LayersOption = None,
    target: TargetOption = None,
    against: AgainstOption = None,
    readout: ReadoutOption = None,
    batch_size: BatchOption = 8,
    output: OutputsOption = None,
    ending: FormatOption = "html",
    json: JsonOption = False,
) -> None:
    """Explain the class of each text, word by word."""
    given = texts(text or [], file or [])
    outputs = _outputs(output, json, given, ending)
    chosen = _choose(method, preset=preset, typed=option or [], layers=layers, readout=readout, sign=sign)
    placed = {"checkpoint": checkpoint, "labels": labels, "device": device, "dtype": dtype}
    bundle = _load(model, "text", placed)
    found = _explain_all(bundle, given, chosen, target, against, batch_size, tokenizer=bundle.tokenizer)
    for one in found:
        _show_prediction(one.text, one)
        console().print(_words(one))
    _write_all(found, given, outputs, ending)


@explain_app.command("image", epilog=_IMAGE_EXAMPLES)
def explain_image(
    image: Annotated[list[str], typer.Argument(help="Image files, folders of them, or - for standard input.")],
    model: ModelOption = "photo",
    checkpoint: CheckpointOption = None,
    labels: LabelsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    method: MethodOption = "GradientRollout",
    preset: PresetOption = None,
    option: MethodOptions = None,
    sign: SignOption = None,
    layers: LayersOption = None,
    target: TargetOption = None,
    against: AgainstOption = None,
    readout: ReadoutOption = None,
    grid: GridOption = None,
    prefix_tokens: PrefixOption = None,
    batch_size: BatchOption = 8,
    output: OutputsOption = None,
    ending: FormatOption = "png",
    json: JsonOption = False,
) -> None:
    """Explain the class of each image, patch by patch. Without --output, a picture or a report is written."""
    given = images(image)
    default = ["explanation.png"] if len(given) == 1 else ["explanations.html"]
    outputs = _outputs(output or (None if json else default), json, given, ending)
    more = {"grid": grid, "prefix_tokens": prefix_tokens}
    chosen = _choose(method, preset=preset, typed=option or [], layers=layers, readout=readout, sign=sign, **more)
    placed = {"checkpoint": checkpoint, "labels": labels, "device": device, "dtype": dtype}
    bundle = _load(model, "image", placed)
    found = _explain_all(bundle, given, chosen, target, against, batch_size, processor=bundle.transform)
    for one, source in zip(found, given, strict=True):
        _show_prediction(source.name, one)
    _write_all(found, given, outputs, ending)


def class_of(typed: str | None, labels: Sequence[str]) -> int | str | None:
    """A class as it was typed: a name comes before a number.

    Args:
        typed: Name or index.
        labels: Names of the classes.

    Returns:
        Name, index, or ``None`` if nothing was typed.
    """
    return int(typed) if typed is not None and typed not in labels and typed.isdigit() else typed


def prediction_of(explanation: Any) -> str:
    """The best classes, and how long the explanation took.

    Args:
        explanation: The explanation.

    Returns:
        One line.
    """
    return f"predicted: {explanation.predicted}; explained in {explanation.seconds * 1000:.0f} ms"


def _outputs(output: list[str] | None, json: bool, given: list[Given], ending: str) -> list[str]:
    from attrib_plugin.app.writing import STDOUT, check_outputs, paths_of

    outputs = [*(output or ()), *([STDOUT] if json and STDOUT not in (output or ()) else ())]
    ending = f".{ending.lstrip('.')}"
    check_outputs(outputs, len(given), ending)
    names = [one.name for one in given]
    keep_inputs((path for one in outputs for path in paths_of(one, names, ending)), [one.value for one in given])
    STATE.results_on_stderr = STDOUT in outputs
    return outputs


def _choose(method: str, **typed: Any) -> Any:
    with progress("loading libraries"):
        from attrib_plugin.app.method_options import choose_method

        return choose_method(method, **typed)


def _load(model: str, modality: Any, placed: dict[str, Any]) -> Any:
    with progress("loading the model"):
        from attrib_plugin.app.loading import load_model

        return load_model(model, modality, **placed)


def _explain_all(
    bundle: Any,
    given: list[Given],
    chosen: Any,
    target: str | None,
    against: str | None,
    batch_size: int,
    **reader: Any,
) -> list[Any]:
    from attrib_plugin.runner.explain_many import explain_many

    found = []
    with progress("explaining", len(given)) as step, _typed_values(chosen):
        for one in explain_many(
            bundle.model,
            [source.value for source in given],
            target=class_of(target, bundle.labels),
            against=class_of(against, bundle.labels),
            labels=bundle.labels,
            multilabel=bundle.multilabel,
            batch_size=batch_size,
            **reader,
            **chosen.arguments,
        ):
            found.append(one)
            step()
    return found


@contextmanager
def _typed_values(chosen: Any) -> Iterator[None]:
    """A value of a wrong type, such as start_layer=two, is the user's to mend."""
    try:
        yield
    except TypeError as error:
        if not chosen.options:
            raise
        typed = ", ".join(f"{name}={value!r}" for name, value in chosen.options.items())
        raise InputError(f"{chosen.method.__name__} cannot use the options {typed}: {error}.") from error


def _show_prediction(name: str, explanation: Any) -> None:
    say(f"{name}\n  {prediction_of(explanation)}\n  {explanation.title}")


def _words(explanation: Any) -> Table:
    table = Table("word", "relevance")
    table.columns[1].justify = "right"
    for word, value in zip(explanation.words, explanation.word_relevance.tolist(), strict=True):
        table.add_row(Text(word.text), f"{value:+.4g}")
    return table


def _write_all(found: list[Any], given: list[Given], outputs: list[str], ending: str) -> None:
    from attrib_plugin.app.writing import STDOUT, as_json, write

    names = [one.name for one in given]
    for output in outputs:
        if output == STDOUT:
            typer.echo(as_json(found, names))
            continue
        with progress("writing", len(found)):
            written = write(found, names, output, f".{ending.lstrip('.')}")
        report: Callable[[str], None] = note if STATE.results_on_stderr else say
        report(f"written: {written[0]}" if len(written) == 1 else f"written: {len(written)} files to {output}")
