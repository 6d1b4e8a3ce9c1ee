"""``attrib-plugin models``: which models there are, and whether a model works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from attrib_plugin.app.arguments import complete_model
from attrib_plugin.app.terminal import console, progress, say
from attrib_plugin.errors import AttributionError, InputError

models_app = typer.Typer(help="List models and families, and check whether a model works.")

_EXAMPLES = """Examples:

attrib-plugin models check vit_base_patch16_224

attrib-plugin models check folder/with/config --modality text"""


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the bundled models, and the model families whose tokens are known."""
    if context.invoked_subcommand is not None:
        return
    with progress("loading libraries"):
        bundled, families = _bundled_table(), _families_table()
    console().print(bundled)
    console().print(families)
    say(
        "A model of another family works with --readout, --grid and --prefix-tokens, if its attention is global. "
        "'attrib-plugin models check NAME' builds a model and tries."
    )


@models_app.command(epilog=_EXAMPLES)
def check(
    model: Annotated[
        str, typer.Argument(help="As for --model of 'explain'.", autocompletion=complete_model, show_default=False)
    ],
    modality: Annotated[str | None, typer.Option(help="text or image; default: tried in this order.")] = None,
) -> None:
    """Build a model, with random weights where that is possible, and say whether it can be explained.

    Exit code 0 if it works, 2 if it is refused.
    """
    if modality not in (None, "text", "image"):
        raise InputError(f"Expected --modality text or image, found {modality!r}.")
    with progress("building the model"):
        built, reads = _build(model, modality)
    with progress("explaining a random input"):
        verdict, is_fine = _verdict(built, reads)
    say(f"{type(built).__name__}: {verdict}")
    if not is_fine:
        raise typer.Exit(2)


def _bundled_table() -> Table:
    from attrib_plugin.app.catalogue import modality_of, model_examples, model_names
    from attrib_plugin.app.loading import missing_for

    table = Table("model", "reads", "state", "examples", title="Bundled models", title_justify="left")
    for name in model_names():
        missing = missing_for(name)
        examples = model_examples(name)
        shown = f"{len(examples)} images" if modality_of(name) == "image" else f"{len(examples)} texts: {examples[0]}"
        table.add_row(name, modality_of(name), Text("ready" if missing is None else str(missing)), Text(shown))
    return table


def _families_table() -> Table:
    from attrib_plugin.families.find import FAMILIES

    table = Table("family", "reads", "limits", "recognised classes", title="Families", title_justify="left")
    for family in FAMILIES:
        limits = "windows: rollouts, attention" if family.windowed else "pairs" if family.towers else ""
        classes = sorted({name.rpartition(".")[2] for name in family.classes})
        shown = ", ".join(classes[:4]) + (f" and {len(classes) - 4} more" if len(classes) > 4 else "")
        table.add_row(family.name, family.modality, limits, Text(shown))
    return table


def _build(name: str, modality: str | None) -> tuple[Any, Literal["text", "image"]]:
    from attrib_plugin.app.catalogue import model_names
    from attrib_plugin.app.loading import load_bundled, untrained_model
    from attrib_plugin.app.timm_models import is_timm_name, load_timm

    if name in model_names():
        bundle = load_bundled(name)
        if modality not in (None, bundle.modality):
            raise InputError(f"The model {name!r} reads {bundle.modality}, not {modality}.")
        return bundle.model, bundle.modality
    if modality != "text" and not name.startswith("hf:") and is_timm_name(name):
        return load_timm(name, untrained=not ("/" in name or Path(name).exists())).model, "image"
    return untrained_model(name.removeprefix("hf:"), modality)


def _verdict(model: Any, reads: str) -> tuple[str, bool]:
    import torch

    from attrib_plugin.families import find_member
    from attrib_plugin.methods import GradientRollout

    member = find_member(model)
    torch.manual_seed(0)
    try:
        found = GradientRollout(model).attribute(_random_input(model, reads), return_input_shape=False)
    except AttributionError as error:
        return f"refused. {error}", False
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        return f"not known: the model does not take a random input. {type(error).__name__}: {first_line}", False
    shape = "x".join(map(str, found.shape[1:] if reads == "text" else found.shape[2:]))
    return f"works (family {member.family.name}; a map of {shape} {'tokens' if reads == 'text' else 'patches'}).", True


def _random_input(model: Any, reads: str) -> Any:
    import torch

    if reads == "text":
        return torch.randint(5, min(90, model.config.vocab_size), (1, 12))
    config = getattr(model, "pretrained_cfg", None)
    if config:
        return torch.rand(1, *config["input_size"])
    n_channels = getattr(getattr(model, "config", None), "num_channels", None)
    if n_channels is None:
        weight = next(module.weight for module in model.modules() if isinstance(module, torch.nn.Conv2d))
        size: Any = getattr(getattr(model, "patch_embed", None), "img_size", (224, 224))
        return torch.rand(1, weight.shape[1], *size)
    size = model.config.image_size
    return torch.rand(1, n_channels, *((size, size) if isinstance(size, int) else size))
