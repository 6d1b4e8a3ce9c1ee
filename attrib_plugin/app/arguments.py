"""Options that several commands share, with what a shell completes them to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from attrib_plugin.app.catalogue import method_entries, model_names


def complete_model(incomplete: str) -> list[str]:
    """Bundled models that begin so.

    Args:
        incomplete: What has been typed.

    Returns:
        Names.
    """
    return [name for name in model_names() if name.startswith(incomplete)]


def complete_method(incomplete: str) -> Iterator[tuple[str, str]]:
    """Methods that begin so; after a colon, the presets of a method.

    Args:
        incomplete: What has been typed.

    Yields:
        Names with a line of help.
    """
    wanted = incomplete.lower()
    for entry in method_entries():
        if entry.name.lower().startswith(wanted):
            yield entry.name, entry.summary
        for preset in entry.presets if ":" in incomplete else ():
            if f"{entry.name}:{preset}".lower().startswith(wanted):
                yield f"{entry.name}:{preset}", "preset"


def complete_preset(context: typer.Context, incomplete: str) -> list[str]:
    """Presets that begin so, of the method if one has been typed.

    Args:
        context: What has been typed before.
        incomplete: What has been typed of the preset.

    Returns:
        Names.
    """
    method = context.params.get("method")
    entries = [entry for entry in method_entries() if not isinstance(method, str) or entry.name == method]
    return sorted({name for entry in entries for name in entry.presets if name.startswith(incomplete)})


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="A bundled model (attrib-plugin models), a folder, or a name: timm:NAME, hf:NAME, or NAME alone.",
        autocompletion=complete_model,
        rich_help_panel="Model",
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(help="Weights for an architecture: .safetensors, or a .pt of plain weights.", rich_help_panel="Model"),
]
LabelsOption = Annotated[Path | None, typer.Option(help="Names of the classes, one a line.", rich_help_panel="Model")]
DeviceOption = Annotated[
    str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.", rich_help_panel="Model")
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, float64, bfloat16 or float16.", rich_help_panel="Model")
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        help="A method of 'attrib-plugin methods', or METHOD:PRESET.",
        autocompletion=complete_method,
        rich_help_panel="Method",
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="A preset of the method (attrib-plugin presets).",
        autocompletion=complete_preset,
        rich_help_panel="Method",
    ),
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="An option of the method, such as start_layer=2; may be repeated.", rich_help_panel="Method"
    ),
]
SignOption = Annotated[
    str | None, typer.Option(help="positive, negative or signed, for gradient methods.", rich_help_panel="Method")
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        help="Layers to follow, START:END from 0 without END; or one layer, for methods that look at one.",
        rich_help_panel="Method",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        help="Class to explain, by name or index; default: the predicted one.", rich_help_panel="What is explained"
    ),
]
AgainstOption = Annotated[
    str | None, typer.Option(help="Class to contrast it with.", rich_help_panel="What is explained")
]
ReadoutOption = Annotated[
    str | None,
    typer.Option(help="What the head reads: cls, mean, last or a position.", rich_help_panel="Unknown models"),
]
GridOption = Annotated[
    str | None, typer.Option(help="Rows and columns of patches, such as 14x14.", rich_help_panel="Unknown models")
]
PrefixOption = Annotated[
    int | None,
    typer.Option("--prefix-tokens", help="Leading tokens that are no patches.", rich_help_panel="Unknown models"),
]
BatchOption = Annotated[
    int, typer.Option(min=1, help="Most inputs that run at once.", rich_help_panel="What is explained")
]
OutputsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        help="File to write, by its ending: .html, .png, .svg, .pdf, .json, .npz, .safetensors; a folder (with / at "
        "the end) for a file each; - for JSON on standard output. May be repeated.",
        rich_help_panel="Output",
    ),
]
FormatOption = Annotated[str, typer.Option("--format", help="What to write into a folder.", rich_help_panel="Output")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON on standard output; the same as -o -.", rich_help_panel="Output")
]
