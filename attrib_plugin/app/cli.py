"""The command line ``attrib-plugin``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

from attrib_plugin.errors import AttributionError, MissingDependencyError

try:
    import typer
    from rich.table import Table
    from rich.text import Text

    from attrib_plugin.app.compare_command import compare_app
    from attrib_plugin.app.explain_command import explain_app, prediction_of
    from attrib_plugin.app.models_command import models_app
    from attrib_plugin.app.terminal import STATE, console, note, progress, quiet_libraries, say
    from attrib_plugin.app.view_command import view_app
    from attrib_plugin.app.web_command import web_app
except ImportError as missing:  # pragma: no cover - the extra is part of the test environment
    sys.exit(str(MissingDependencyError(missing.name or "typer", "cli")))

USER_ERROR = 2
UNEXPECTED = 1
INTERRUPTED = 130

app = typer.Typer(
    help="Explain what a transformer's prediction rests on.",
    epilog='Start with: attrib-plugin demo   or: attrib-plugin explain text "A gentle, moving film."',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(explain_app, name="explain")
app.add_typer(compare_app, name="compare")
app.add_typer(view_app, name="view")
app.add_typer(models_app, name="models")
app.command("app", epilog="Example: attrib-plugin app --model image=timm:vit_small_patch16_224 --port 8000")(web_app)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from attrib_plugin import __version__

        say(f"attrib-plugin {__version__}")
        raise typer.Exit


@app.callback()
def _settings(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what libraries say.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    STATE.debug, STATE.results_on_stderr = debug, False
    if context.invoked_subcommand != "app":  # It runs for hours, in threads.
        context.with_resource(quiet_libraries())


@app.command(epilog="Example: attrib-plugin methods")
def methods() -> None:
    """List the methods, with the names of their presets."""
    from attrib_plugin.app.catalogue import method_entries

    table = Table("method", "target", "what it gives", "presets")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for entry in method_entries():
        target = "class-specific" if entry.is_class_specific else "class-agnostic"
        table.add_row(entry.name, target, Text(entry.summary), ", ".join(entry.presets))
    console().print(table)


@app.command(epilog="Example: attrib-plugin presets GradientRollout")
def presets(
    method: Annotated[str | None, typer.Argument(help="Only those of a method.", show_default=False)] = None,
) -> None:
    """List the presets: published implementations, and what is peculiar about each."""
    with progress("loading libraries"):
        from attrib_plugin.errors import InputError
        from attrib_plugin.runner.presets import presets as all_presets

        found = [one for one in all_presets() if method in (None, one.method)]
    if not found:
        known = ", ".join(dict.fromkeys(one.method for one in all_presets()))
        raise InputError(f"No preset belongs to {method!r}. Methods with presets: {known}.")
    table = Table("method", "preset", "source", "options", "what is peculiar", show_lines=True)
    table.columns[1].overflow = "fold"
    for one in found:
        table.add_row(*map(Text, one.cells))
    console().print(table)


@app.command(epilog="Example: attrib-plugin demo -o demo-output")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report and the pictures.")] = Path(
        "demo-output"
    ),
) -> None:
    """Explain a text, digits and a photograph with real models, offline, and write a report."""
    start = time.perf_counter()
    with progress("loading libraries") as step:
        from attrib_plugin.app.demo import demo_steps, run_demo

        for path, section in run_demo(output, demo_steps(), lambda begun: step(begun.name)):
            for explanation in section.explanations[:1] if section else ():
                say(f"{explanation.text or 'image'}\n  {prediction_of(explanation)}")
            say(f"  {path}")
    say(f"Done in {time.perf_counter() - start:.1f} s. Open {output / 'report.html'} in a browser.")


def main() -> None:
    """Run the command line; the exit code is 0, 2 for what the user can mend, 130 for Ctrl-C, 1 for anything else."""
    try:
        app(prog_name="attrib-plugin")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if STATE.debug:
            raise
        if isinstance(error, (AttributionError, ValueError)):
            note(f"attrib-plugin: {error}")
            sys.exit(USER_ERROR)
        if isinstance(error, OSError) and error.filename is not None:
            note(f"attrib-plugin: {str(error.filename)!r}: {error.strerror}.")
            sys.exit(USER_ERROR)
        note(
            f"attrib-plugin: {type(error).__name__}: {error}\nThis was not expected. 'attrib-plugin --debug ...' shows "
            "where it happened; please report that with the command and the versions of the libraries."
        )
        sys.exit(UNEXPECTED)
