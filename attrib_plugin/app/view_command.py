"""``attrib-plugin view``: attention as a page to click through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from attrib_plugin.errors import InputError

view_app = typer.Typer(help="Write attention as an interactive HTML page.", no_args_is_help=True)

_Model = Annotated[str, typer.Option(help="A bundled model, 'photo', or a transformers folder or name.")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="The .html file to write; it needs no network.")]


@view_app.command("text", epilog='Example: attrib-plugin view text "A gentle, moving film." --kind flow -o flow.html')
def view_text(
    text: Annotated[str, typer.Argument(help="The text.")],
    model: _Model = "sentiment",
    kind: Annotated[str, typer.Option(help="head, model or flow.")] = "head",
    output: _Output = Path("view.html"),
) -> None:
    """Show the attention between the tokens of a text."""
    from attrib_plugin.app.loading import load_model

    bundle = load_model(model, "text")
    _write(bundle, text, kind, output, tokenizer=bundle.tokenizer)


@view_app.command("image", epilog="Example: attrib-plugin view image cat.jpg --model photo -o cat.html")
def view_image(
    image: Annotated[Path, typer.Argument(help="The image file.")],
    model: _Model = "photo",
    kind: Annotated[str, typer.Option(help="image, head, model or flow.")] = "image",
    output: _Output = Path("view.html"),
) -> None:
    """Show the attention between the patches of an image."""
    from attrib_plugin.app.loading import load_model

    if not image.is_file():
        raise InputError(f"There is no file {str(image)!r}.")
    bundle = load_model(model, "image")
    _write(bundle, image, kind, output, processor=bundle.transform)


def _write(bundle: Any, what: Any, kind: Any, output: Path, **reader: Any) -> None:
    from attrib_plugin.runner.attention_view import view

    if output.suffix not in (".html", ".htm"):
        raise InputError(f"Expected a name that ends in .html, found {output.name!r}.")
    path = view(bundle.model, what, kind=kind, **reader).save(output)
    size = path.stat().st_size / 1e3
    shown = f"{size:.0f} kB" if size < 1e3 else f"{size / 1e3:.1f} MB"
    Console().print(Text(f"written: {path} ({shown}). Open it in a browser."))
