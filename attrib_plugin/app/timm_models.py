"""Models of timm by name, from the hub's files, a folder or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from attrib_plugin.app.bundled import BundledModel
from attrib_plugin.app.checkpoints import fill, read_checkpoint
from attrib_plugin.app.hub import why_not_local, without_retries
from attrib_plugin.errors import InputError, MissingDependencyError

PREFIX = "timm:"


def is_timm_name(name: str) -> bool:
    """Whether a name without library means a model of timm.

    Args:
        name: The name.

    Returns:
        True for a repository of timm on the hub, a folder that timm has saved, or an architecture that timm has.
    """
    if name.startswith((PREFIX, "timm/", "hf-hub:", "hf_hub:")) or _saved_by_timm(Path(name)):
        return True
    if "/" in name or Path(name).exists():
        return False
    try:
        import timm
    except ImportError:
        return False
    return bool(timm.is_model(name.partition(".")[0]))


def load_timm(name: str, *, checkpoint: Path | None = None, untrained: bool = False) -> BundledModel:
    """Load a model of timm.

    Args:
        name: Architecture, with or without tag and with or without ``timm:``; a repository such as ``timm/NAME``; or a
            folder that timm has saved.
        checkpoint: Weights to use; none are fetched then. The number of classes is that of the weights.
        untrained: Draw random weights.

    Returns:
        The model with its own preprocessing and, where timm knows them, the names of its classes.

    Raises:
        InputError: If there is no such model, or its weights are not at hand.
        MissingDependencyError: If timm is not installed.
    """
    try:
        import timm
        from timm.data import create_transform, resolve_model_data_config
    except ImportError as error:
        raise MissingDependencyError("timm", "image") from error
    wanted = _name_for_timm(name.removeprefix(PREFIX))
    if ":" not in wanted and not timm.is_model(wanted.partition(".")[0]):
        raise InputError(f"timm has no architecture {wanted!r}.")
    weights = None if checkpoint is None else read_checkpoint(checkpoint)
    options: dict[str, Any] = {} if weights is None else _n_classes(wanted, weights)
    try:
        with without_retries():
            model = timm.create_model(wanted, pretrained=weights is None and not untrained, **options).eval()
    except (OSError, ValueError, RuntimeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"timm cannot load {wanted!r}: {first_line} {why_not_local()}") from error
    if weights is not None and checkpoint is not None:
        fill(model, weights, checkpoint)
    return BundledModel(
        name=wanted.rpartition("/")[2].rpartition(":")[2],
        model=model,
        labels=_labels(model),
        modality="image",
        tokenizer=None,
        transform=create_transform(**resolve_model_data_config(model), is_training=False),
        multilabel=False,
        examples=(),
    )


def _saved_by_timm(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and "pretrained_cfg" in json.loads(config.read_text(encoding="utf-8"))


def _name_for_timm(name: str) -> str:
    if _saved_by_timm(Path(name)):
        return f"local-dir:{name}"
    return f"hf-hub:{name}" if "/" in name and ":" not in name else name


def _n_classes(name: str, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of classes that the weights of a head have."""
    import timm

    config = None if ":" in name else timm.get_pretrained_cfg(name, allow_unregistered=True)
    heads = getattr(config, "classifier", None) or "head"
    for head in (heads,) if isinstance(heads, str) else heads:
        bias = weights.get(f"{head}.bias", weights.get(f"{head}.weight"))
        if bias is not None:
            return {"num_classes": len(bias)}
    return {}


def _labels(model: Any) -> tuple[str, ...]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config, count = model.pretrained_cfg, model.num_classes
    if count == config.get("num_classes"):
        if names := config.get("label_descriptions") or config.get("label_names"):
            return tuple(names.values() if isinstance(names, Mapping) else names)
        if subset := infer_imagenet_subset(config):
            return tuple(ImageNetInfo(subset).label_descriptions(detailed=False))
    return tuple(map(str, range(count)))
