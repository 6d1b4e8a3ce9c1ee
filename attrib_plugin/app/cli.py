"""The command line ``attrib-plugin``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

from attrib_plugin.errors import AttributionError, InputError, MissingDependencyError

try:
    import typer
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from rich.text import Text

    from attrib_plugin.app.compare_command import compare_app
    from attrib_plugin.app.view_command import view_app
except ImportError as missing:  # pragma: no cover - the extra is part of the test environment
    sys.exit(str(MissingDependencyError(missing.name or "typer", "cli")))

app = typer.Typer(
    help="Explain what a transformer's prediction rests on.", no_args_is_help=True, pretty_exceptions_enable=False
)
explain_app = typer.Typer(help="Explain one prediction.", no_args_is_help=True)
app.add_typer(explain_app, name="explain")
app.add_typer(compare_app, name="compare")
app.add_typer(view_app, name="view")
console = Console()

_Model = Annotated[str, typer.Option(help="A bundled model, 'photo', or a transformers folder or name.")]
_Method = Annotated[str, typer.Option(help="A method of 'attrib-plugin methods'.")]
_Sign = Annotated[str | None, typer.Option(help="positive, negative or signed, for gradient methods.")]
_Target = Annotated[str | None, typer.Option(help="Class to explain, by name or index; default: the predicted one.")]
_Against = Annotated[str | None, typer.Option(help="Class to contrast it with.")]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write: .html, .png, .json, .npz, .svg or .pdf.")
]


@explain_app.command("text", epilog='Example: attrib-plugin explain text "A gentle, moving film." -o out.html')
def explain_text(
    text: Annotated[str, typer.Argument(help="The text.")],
    model: _Model = "sentiment",
    method: _Method = "GradientRollout",
    sign: _Sign = None,
    target: _Target = None,
    against: _Against = None,
    output: _Output = None,
) -> None:
    """Explain the class of a text, word by word."""
    from attrib_plugin.app.loading import load_model

    bundle = load_model(model, "text")
    explanation = _explain(bundle, text, method, sign, target=target, against=against, tokenizer=bundle.tokenizer)
    _print_prediction(explanation)
    console.print(Text(f"  {explanation.title}"))
    table = Table("word", "relevance")
    table.columns[1].justify = "right"
    for word, value in zip(explanation.words, explanation.word_relevance.tolist(), strict=True):
        table.add_row(Text(word.text), f"{value:+.4g}")
    console.print(table)
    _save(explanation, output)


@explain_app.command("image", epilog="Example: attrib-plugin explain image cat.jpg --model photo -o out.png")
def explain_image(
    image: Annotated[Path, typer.Argument(help="The image file.")],
    model: _Model = "photo",
    method: _Method = "GradientRollout",
    sign: _Sign = None,
    target: _Target = None,
    against: _Against = None,
    output: _Output = Path("explanation.png"),
) -> None:
    """Explain the class of an image, patch by patch."""
    from attrib_plugin.app.loading import load_model

    if not image.is_file():
        raise InputError(f"There is no file {str(image)!r}.")
    bundle = load_model(model, "image")
    explanation = _explain(bundle, image, method, sign, target=target, against=against, processor=bundle.transform)
    _print_prediction(explanation)
    _save(explanation, output)


@app.command()
def methods() -> None:
    """List the methods."""
    import attrib_plugin.methods as available

    table = Table("method", "target", "what it gives")
    for name in available.__all__:
        method = getattr(available, name)
        summary = (method.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, "class-specific" if method.needs_gradients else "class-agnostic", summary)
    console.print(table)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report and the pictures.")] = Path(
        "demo-output"
    ),
) -> None:
    """Explain a text, digits and a photograph with real models, offline, and write a report."""
    start = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading libraries")
        from attrib_plugin.app.demo import demo_steps, run_demo

        for path, section in run_demo(output, demo_steps(), lambda step: progress.update(task, description=step.name)):
            for explanation in section.explanations[:1] if section else ():
                _print_prediction(explanation)
            console.print(Text(f"  {path}"))
    console.print(f"Done in {time.perf_counter() - start:.1f} s. Open {output / 'report.html'} in a browser.")


def main() -> None:
    """Run the command line; what goes wrong on purpose is said in one line, with exit code 2."""
    try:
        app()
    except (AttributionError, ValueError) as error:
        Console(stderr=True).print(Text(f"attrib-plugin: {error}"))
        sys.exit(2)


def _explain(bundle: Any, what: Any, method: str, sign: str | None, **options: Any) -> Any:
    import attrib_plugin.methods as available
    from attrib_plugin.runner.explain import explain

    if method not in available.__all__:
        raise InputError(f"There is no method {method!r}. The methods: {', '.join(available.__all__)}.")
    for name in ("target", "against"):
        options[name] = _index_or_name(options[name], bundle.labels)
    if sign is not None:
        options["sign"] = sign
    return explain(
        bundle.model,
        what,
        method=getattr(available, method),
        labels=bundle.labels,
        multilabel=bundle.multilabel,
        **options,
    )


def _index_or_name(given: str | None, labels: tuple[str, ...]) -> int | str | None:
    return int(given) if given is not None and given not in labels and given.isdigit() else given


def _print_prediction(explanation: Any) -> None:
    best = ", ".join(f"{one.label} {one.probability:.1%}" for one in explanation.predictions[:3])
    console.print(
        Text(f"{explanation.text or 'image'}\n  predicted: {best}; explained in {explanation.seconds * 1000:.0f} ms")
    )


def _save(explanation: Any, output: Path | None) -> None:
    if output is not None:
        console.print(Text(f"written: {explanation.save(output)}"))
