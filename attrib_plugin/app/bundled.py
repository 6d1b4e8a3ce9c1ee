"""The small trained models that ship inside the package.

They exist so that every example, test and demonstration has a real model without a download.
How they were made: ``scripts/train_sentiment.py`` and ``scripts/train_digits.py``; what they can
and cannot do: ``README.md`` in each folder of ``attrib_plugin/app/models``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attrib_plugin.errors import MissingDependencyError

if TYPE_CHECKING:  # Pillow comes with the extra "image"; the text model does without.
    from PIL import Image

MODELS_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class BundledModel:
    """A trained model with everything needed to run it.

    Attributes:
        name: One of ``names()``.
        model: In evaluation mode, float32, on the CPU; a fresh object at every load.
        labels: Name of every class, in the order of the logits.
        modality: What the model reads.
        tokenizer: A fast tokenizer of transformers; ``None`` for image models.
        transform: Turns any PIL image into the model's float tensor (channel, height, width),
            0 to 1; ``None`` for text models.
        multilabel: Whether each class has its own sigmoid; otherwise one softmax over all.
        examples: Sentences, or paths of small PNG files.
    """

    name: str
    model: nn.Module
    labels: tuple[str, ...]
    modality: Literal["text", "image"]
    tokenizer: Any | None
    transform: Callable[["Image.Image"], Tensor] | None
    multilabel: bool
    examples: tuple[str, ...] | tuple[Path, ...]


@dataclass(frozen=True)
class GrayscaleTransform:
    """Turns a PIL image into a square grey tensor; digits are white on black, as in MNIST.

    Attributes:
        size: Height and width in pixels; an image of another size is resampled.
    """

    size: int

    def __call__(self, image: "Image.Image") -> Tensor:
        """Return a float tensor of shape (1, size, size), 0 (black) to 1 (white)."""
        from PIL import Image

        grey = image.convert("L")
        if grey.size != (self.size, self.size):
            grey = grey.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255).unsqueeze(0)


def names() -> tuple[str, ...]:
    """Return the names that ``load`` knows."""
    return ("sentiment", "digits", "multi-digits")


def load(name: Literal["sentiment", "digits", "multi-digits"], *, folder: Path | None = None) -> BundledModel:
    """Load a bundled model from the package's own files; nothing is fetched.

    Args:
        name: ``"sentiment"``: a BERT of six layers that tells negative from positive sentences.
            ``"digits"``: a small vision transformer for one digit, 28x28 pixels.
            ``"multi-digits"``: the same for two to four digits on a canvas of 56x56 pixels.
        folder: Files of a retrained model; the shipped ones by default.

    Returns:
        The model with its tokenizer or transform, labels and examples.

    Raises:
        ValueError: If there is no bundled model of this name.
        MissingDependencyError: If transformers (text) or timm (image) is not installed.
    """
    if name not in names():
        raise ValueError(f"There is no bundled model named {name!r}. Give one of: {', '.join(map(repr, names()))}.")
    folder = MODELS_FOLDER / name if folder is None else folder
    return _load_sentiment(name, folder) if name == "sentiment" else _load_digits(name, folder)


def dequantise(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn stored weights into float32.

    Args:
        weights: int8 matrices, each with an entry ``NAME.scale`` (row, 1) that holds one factor
            a row; floating-point entries without a scale are only widened.

    Returns:
        The weights by name, without the scales.
    """
    floats: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith(".scale"):
            continue
        scale = weights.get(f"{name}.scale")
        floats[name] = weight.float() if scale is None else weight * scale.float()
    return floats


def _load_sentiment(name: str, folder: Path) -> BundledModel:
    try:
        from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingDependencyError("transformers", "text") from error

    settings = _read_json(folder / "config.json")
    special_tokens = _read_json(folder / "tokenizer_config.json")
    # The constructors never ask the model hub; `from_pretrained` may, even for a local folder.
    model = _with_weights(lambda: BertForSequenceClassification(BertConfig.from_dict(settings)), folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=settings["max_position_embeddings"],
        **{key: value for key, value in special_tokens.items() if key.endswith("_token")},
    )
    return BundledModel(
        name=name,
        model=model,
        labels=tuple(settings["id2label"].values()),
        modality="text",
        tokenizer=tokenizer,
        transform=None,
        multilabel=False,
        examples=tuple(example["text"] for example in _read_json(MODELS_FOLDER / name / "examples.json")),
    )


def _load_digits(name: str, folder: Path) -> BundledModel:
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise MissingDependencyError("timm", "image") from error

    settings = _read_json(folder / "config.json")
    architecture = settings["architecture"]
    return BundledModel(
        name=name,
        model=_with_weights(lambda: VisionTransformer(**architecture), folder),
        labels=tuple(settings["labels"]),
        modality="image",
        tokenizer=None,
        transform=GrayscaleTransform(architecture["img_size"]),
        multilabel=settings["multilabel"],
        examples=tuple(sorted((MODELS_FOLDER / name / "examples").glob("*.png"))),
    )


def _with_weights(build: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """Build a model and fill in the weights stored in ``folder``."""
    from safetensors.torch import load_file

    with _NothingDrawn():
        model = build()
    model.load_state_dict(dequantise(load_file(folder / "model.safetensors")), assign=True)
    return model.eval()


class _NothingDrawn(TorchFunctionMode):
    """Skips the random numbers that constructors fill weights with.

    Every weight is loaded afterwards, so drawing them would only take time (as long as all the rest
    of loading) and change the random numbers of the caller.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
