"""Models for the sweep: every architecture of timm and transformers with random weights, as small as it can be made.

What is reduced is depth, image size and, in transformers, widths; the attention class, the prefix tokens, the pooling
and the head stay as the architecture has them. Weights are drawn anew and larger than a library's defaults, so that
gradients are far from zero and layer scale hides nothing.
"""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import timm
import torch
import transformers
from model_proofs import LENGTHS
from open_attention import Case
from small_configs import CLASSES, HEADS, LAYERS, SWIN_IMAGE, TIMM_SWIN, WIDTH, WINDOWED, small_config
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from attrib_plugin.capture import CaptureSession, token_to_token
from attrib_plugin.errors import NothingCapturedError, UnsupportedAttentionError
from attrib_plugin.families import find_member

LARGEST = 1_000_000_000
"""Most weights that are tried: 4 GB."""

_TORCH_ATTENTION = ("MultiheadAttention", "Softmax", "TransformerEncoderLayer", "TransformerDecoderLayer")


class CannotBuildError(Exception):
    """No attempt gave a model that runs."""


def names(library: str) -> list[str]:
    """Everything that the sweep looks at in a library, by name."""
    if library == "timm":
        return timm.list_models()
    tables = (
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    )
    found = []
    for table in tables:
        for kind, classes in table.items():
            found += [f"{kind} {one}" for one in ([classes] if isinstance(classes, str) else classes)]
    return found


def names_attention(library: str, name: str) -> bool:
    """Whether the file that defines a model speaks of attention between tokens; cheap, and good for an order only."""
    defined = getattr(transformers, name.split()[1]) if library == "transformers" else timm.model_entrypoint(name)
    return _speaks_of_attention(defined.__module__)


@lru_cache(None)
def _speaks_of_attention(home: str) -> bool:
    source = inspect.getsource(importlib.import_module(home)).lower()
    return "softmax" in source or "scaled_dot_product" in source or "attention_interface" in source


def seen_in_outline(name: str) -> tuple[str, str] | None:
    """What is seen of a timm model without computing anything (meta device).

    Args:
        name: Name of the model.

    Returns:
        ``"no attention"``, or ``"refused"`` with the error where a family or the shapes alone are the reason; ``None``
        if the model has to be run.
    """
    model = _whole_outline(name)
    if model is None:
        return None
    member = find_member(model)
    if reason := member.family.refusal(member.module):
        return "refused", f"{type(member.module).__name__} cannot be explained: {reason}"
    if member.family.patch_grid is not None:
        return None
    # Files of convolutions alone need not be run.
    kinds = {type(module) for module in model.modules()}
    homes = {kind.__module__ for kind in kinds if not kind.__module__.startswith("torch.")}
    attends = any(kind.__name__ in _TORCH_ATTENTION for kind in kinds) or any(map(_speaks_of_attention, homes))
    return _shapes_say(model) if attends else ("no attention", "")


def _shapes_say(model: nn.Module) -> tuple[str, str] | None:
    with torch.device("meta"):
        image = torch.randn(1, *resolve_model_data_config(model)["input_size"])
    try:
        with CaptureSession(model) as session, _decided():
            model(image)
        token_to_token(session.calls, allow_pooling=False)
    except NothingCapturedError as error:
        return ("refused", str(error)) if "over another axis" in str(error) else ("no attention", "")
    except UnsupportedAttentionError as error:
        # Where values lie in memory is nothing that an outline knows.
        return None if "side by side" in str(error) else ("refused", str(error))
    except Exception:  # a model that needs values says nothing here
        return None
    return None


def family_of_outline(name: str) -> str:
    """Name of the family of a timm model."""
    model = _whole_outline(name)
    return "unknown" if model is None else find_member(model).family.name


@contextmanager
def _decided() -> Iterator[None]:
    """Tensors without values answer no, so that a model is not stopped by what capture asks of its probabilities."""
    own = torch.Tensor.__bool__
    torch.Tensor.__bool__ = lambda tensor: False if tensor.is_meta else own(tensor)
    try:
        yield
    finally:
        torch.Tensor.__bool__ = own


@lru_cache(1)
def _whole_outline(name: str) -> nn.Module | None:
    return _outline(name)


def _outline(name: str, **settings: Any) -> nn.Module | None:
    """A timm model without storage; ``None`` if its constructor does not take the settings."""
    try:
        with torch.device("meta"), _undrawn("clamp_"):
            return timm.create_model(name, num_classes=CLASSES, **settings).eval()
    except Exception:  # whatever a constructor raises
        return None


def implementations(library: str, name: str) -> list[str]:
    """Attention implementations to examine; models that have only their own have the one called eager."""
    if library == "timm":
        return ["sdpa", "eager"]
    return ["sdpa", "eager"] if getattr(transformers, name.split()[1])._supports_sdpa else ["eager"]


def cases(library: str, name: str, implementation: str) -> Iterator[tuple[str, Case]]:
    """Attempts to build a model, smallest first; the first that runs is the one to examine.

    Args:
        library: ``"timm"`` or ``"transformers"``.
        name: As in :func:`names`.
        implementation: ``"sdpa"`` or ``"eager"``.

    Yields:
        How it was made, and the case.
    """
    attempts = _timm_attempts(name) if library == "timm" else _transformers_attempts(name)
    reasons: dict[str, str] = {}
    for how, build in attempts:
        try:
            torch.manual_seed(0)
            with _undrawn():
                model, inputs, keywords = build(implementation)
            _draw_weights(model)
            # The caller who cuts images into patches names the grid.
            grid = {"grid": model.grid(inputs)} if isinstance(model, Cutting) else {}
            case = Case(model, inputs, keywords, grid)
            if how != "whole":
                with torch.no_grad():
                    model(inputs[:1], **{key: value[:1] for key, value in keywords.items()})
        except Exception as error:  # whatever a library raises for a size that it does not take
            # One reason for several sizes is said once; of a library that is missing, the first sentence says it.
            said = str(error).strip().partition(". ")[0] if isinstance(error, ImportError) else str(error)
            reasons.setdefault(f"{type(error).__name__}: {said}"[:300], how)
            continue
        yield how, case
        return
    raise CannotBuildError(" | ".join(f"{how}: {reason}" for reason, how in reasons.items()))


class Cutting(nn.Module):
    """A model of patches as one of images, which are cut row by row.

    Args:
        model: Takes patches of 8 x 8 pixels with all their colours.
    """

    _SIDE = 8

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return images.shape[-2] // self._SIDE, images.shape[-1] // self._SIDE

    def forward(self, images: Tensor) -> Any:
        """What the model says of the patches of images (B, C, H, W)."""
        rows, columns = self.grid(images)
        patches = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 3, 5, 1)
        patches = patches.reshape(len(images), rows * columns, -1)
        shapes = torch.tensor([[rows, columns]]).expand(len(images), -1)
        seen = torch.ones(patches.shape[:2], dtype=torch.long)
        return self.model(pixel_values=patches, pixel_attention_mask=seen, spatial_shapes=shapes)


@contextmanager
def _undrawn(*also: str) -> Iterator[None]:
    """Libraries draw truncated normals, which takes longer than all the proofs; they are drawn anew anyway."""
    homes = [(torch.Tensor, name) for name in ("erfinv_", "uniform_", "normal_", *also)]
    # It draws until everything is within its bounds, and what is not drawn never is.
    homes.append((nn.init, "_no_grad_trunc_normal_"))
    own = [getattr(home, name) for home, name in homes]
    for home, name in homes:
        setattr(home, name, lambda tensor, *args, **keywords: tensor)
    try:
        yield
    finally:
        for (home, name), function in zip(homes, own, strict=True):
            setattr(home, name, function)


def _draw_weights(model: nn.Module) -> None:
    # Large models are filled from one long draw again and again, each parameter from another place.
    drawn = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        is_bias = name.endswith("bias")
        # Norms that end a branch of a convolutional stem begin at zero; at one, every patch would see the whole image.
        # Only they have been filled: see `_undrawn`.
        if not parameter.is_floating_point() or (parameter.dim() == 1 and "backbone" in name and not is_bias):
            continue
        repeats = parameter.numel() // len(drawn) + 2
        noise = drawn.repeat(repeats)[7919 * number % len(drawn) :][: parameter.numel()].reshape(parameter.shape)
        fan_in = parameter[0].numel() if parameter.dim() in (2, 4) else 0
        with torch.no_grad():
            if fan_in:
                parameter.copy_(noise * (1.5 / fan_in**0.5) if "embed" not in name or fan_in > 3 * WIDTH else noise)
            elif parameter.dim() == 1 and not is_bias:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.3 * noise)


# ------------------------------------------------------------------------------------------------------- timm


def _timm_attempts(name: str) -> Iterator[tuple[str, Any]]:
    whole = _whole_outline(name)
    if whole is None:
        raise CannotBuildError("the constructor fails on the meta device")
    size = resolve_model_data_config(whole)["input_size"]
    for reduction in _reductions(name, _patch_of(whole), find_member(whole).family.windowed):
        height, width = reduction.get("img_size", size[1:])

        def build(
            implementation: str,
            reduction: dict[str, Any] = reduction,
            shape: tuple[int, ...] = (size[0], height, width),
        ) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
            outline = _outline(name, **reduction) if reduction else whole
            if outline is None:
                raise CannotBuildError("the constructor does not take these settings")
            weights = sum(part.numel() for part in outline.parameters())
            if weights > LARGEST:
                raise CannotBuildError(f"{weights / 1e6:.0f} million weights do not fit")
            model = timm.create_model(name, num_classes=CLASSES, **reduction).eval()
            _set_fused(model, implementation)
            return model, torch.randn(2, *shape), {}

        yield ", ".join(f"{key}={value}" for key, value in reduction.items()) or "whole", build


def _set_fused(model: nn.Module, implementation: str) -> None:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = implementation == "sdpa"


def _reductions(name: str, patch: tuple[int, int] | None, is_windowed: bool) -> Iterator[dict[str, Any]]:
    """Smaller settings that the constructor may take, smallest first; the last is the model as it is."""
    if is_windowed:
        yield TIMM_SWIN
        return
    shallow: dict[str, Any] = {"depth": LAYERS}
    # Some merge 2 x 2 or 3 x 3 patches behind the last layer, so that 3 x 5 of them do not come out even.
    for rows, columns in ((3, 5), (6, 12)) if patch is not None else ():
        small = {**shallow, "img_size": (rows * patch[0], columns * patch[1])}
        narrow = {**small, "embed_dim": 16 * HEADS, "num_heads": HEADS}
        yield narrow
        yield {**narrow, "num_kv_heads": (HEADS, 2, 2)}  # fewer keys than queries, as a list with one entry a layer
        yield small
        yield {"img_size": small["img_size"]}
    if _outline(name, **shallow) is not None:
        yield shallow
    yield {}


def _patch_of(model: nn.Module) -> tuple[int, int] | None:
    """Only plain transformers are shown few patches: other windows would cover them whole."""
    family = find_member(model).family
    size = family.patch_size(model) if family.name.startswith("timm") else None
    return None if size is None else (int(size[0]), int(size[1]))


# ----------------------------------------------------------------------------------------------- transformers


def _transformers_attempts(name: str) -> Iterator[tuple[str, Any]]:
    class_name = name.split()[1]
    model_class = getattr(transformers, class_name)
    # Some classifiers of images read ids of colours.
    is_image = "ImageClassification" in class_name and model_class.main_input_name != "input_ids"
    sizes: list[Any] = [(24, 40), 32, None] if is_image else [None]
    if model_class.config_class.model_type in WINDOWED:
        sizes = [SWIN_IMAGE]
    for reduced in (True, False):
        for image_size in sizes:

            def build(
                implementation: str, image_size: Any = image_size, reduced: bool = reduced
            ) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
                config = small_config(model_class.config_class, reduced, image_size)
                config._attn_implementation = implementation
                with torch.device("meta"):
                    weights = sum(parameter.numel() for parameter in model_class(config).parameters())
                if weights > LARGEST:
                    raise CannotBuildError(f"{weights / 1e6:.0f} million weights do not fit")
                model = model_class(config).eval()
                if model.config._attn_implementation != implementation:
                    raise CannotBuildError(f"it has no {implementation} attention")
                _set_fused(model, implementation)
                if is_image:
                    side = _image_size(config, image_size)
                    images = torch.randn(2, 3, *side)
                    return (Cutting(model) if config.model_type == "siglip2" else model), images, {}
                return model, *_text(model)

            yield (
                f"{'tiny' if reduced else 'default'} config, image {image_size}"
                if is_image
                else ("tiny config" if reduced else "default config"),
                build,
            )


def _image_size(config: Any, asked: Any) -> tuple[int, int]:
    size = asked or getattr(getattr(config, "vision_config", config), "image_size", None) or 64
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _text(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    lengths = torch.tensor(LENGTHS)
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.where(real, torch.randint(5, 90, real.shape), 1)
    ids[torch.arange(len(lengths)), lengths - 1] = 3  # the end of text, which classifiers of BART's kind read
    return ids, {"attention_mask": real.long()}
