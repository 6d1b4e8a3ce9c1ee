"""``attrib-plugin view``: attention as a page to click through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attrib_plugin.app.arguments import CheckpointOption, ModelOption
from attrib_plugin.app.reading_inputs import one_image, one_text
from attrib_plugin.app.terminal import progress, say
from attrib_plugin.errors import InputError

view_app = typer.Typer(help="Write attention as an interactive HTML page.", no_args_is_help=True)

_Output = Annotated[Path, typer.Option("--output", "-o", help="The .html file to write; it needs no network.")]


@view_app.command("text", epilog='Example: attrib-plugin view text "A gentle, moving film." --kind flow -o flow.html')
def view_text(
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    model: ModelOption = "sentiment",
    checkpoint: CheckpointOption = None,
    kind: Annotated[str, typer.Option(help="head, model or flow.")] = "head",
    output: _Output = Path("view.html"),
) -> None:
    """Show the attention between the tokens of a text."""
    what = one_text(text)
    _check(output)
    bundle = _load(model, "text", checkpoint)
    _write(bundle, what, kind, output, tokenizer=bundle.tokenizer)


@view_app.command("image", epilog="Example: attrib-plugin view image cat.jpg --model photo -o cat.html")
def view_image(
    image: Annotated[str, typer.Argument(help="The image file; - reads it from standard input.")],
    model: ModelOption = "photo",
    checkpoint: CheckpointOption = None,
    kind: Annotated[str, typer.Option(help="image, head, model or flow.")] = "image",
    output: _Output = Path("view.html"),
) -> None:
    """Show the attention between the patches of an image."""
    what = one_image(image)
    _check(output)
    bundle = _load(model, "image", checkpoint)
    _write(bundle, what, kind, output, processor=bundle.transform)


def _check(output: Path) -> None:
    """Before anything is computed."""
    if output.suffix not in (".html", ".htm"):
        raise InputError(f"Expected a name that ends in .html, found {output.name!r}.")
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {str(output.parent)!r} to write {output.name!r} to.")


def _load(model: str, modality: Any, checkpoint: Path | None) -> Any:
    with progress("loading the model"):
        from attrib_plugin.app.loading import load_model

        return load_model(model, modality, checkpoint=checkpoint)


def _write(bundle: Any, what: Any, kind: Any, output: Path, **reader: Any) -> None:
    from attrib_plugin.runner.attention_view import view

    with progress("reading the attention"):
        path = view(bundle.model, what, kind=kind, **reader).save(output)
    size = path.stat().st_size / 1e3
    shown = f"{size:.0f} kB" if size < 1e3 else f"{size / 1e3:.1f} MB"
    say(f"written: {path} ({shown}). Open it in a browser.")
