"""The tasks of ``faithfulness.py`` on photographs: whole ones, and mosaics of two or four, asked for each of them."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from faithfulness_task import SEED, Task
from PIL import Image
from torch import Tensor

from attrib_plugin.app.photo import IMAGE_SIZE, PATCH_SIZE, load_photo_model
from attrib_plugin.errors import MissingDependencyError


def photo(samples: int) -> Task:
    """Whole photographs."""
    bundle, photos, labels = _photos()
    images = torch.stack([bundle.transform(image) for image in photos])
    with torch.no_grad():
        scores = bundle.model(images)
    right = (scores.argmax(1) == labels).nonzero().flatten()[:samples]
    return Task(
        name="photo",
        about="DINOv2 ViT-S/14, 256 patches, with a small head; ImageNet photos that the head was fitted on crops of",
        model=bundle.model,
        inputs=images[right],
        targets=labels[right],
        others=scores[right].scatter(1, labels[right, None], -math.inf).argmax(1),
        fill=0.0,  # the mean of ImageNet, after normalisation
        steps=4,
        ablated=4,
        gradient_steps=4,
    )


def photo_pairs(samples: int) -> Task:
    """Two photographs side by side: what speaks for a class lies in its half."""
    return _mosaics(samples, "photo pairs", (1, 2))


def photo_mosaics(samples: int) -> Task:
    """Mosaics of four photographs: what speaks for a class lies in its quadrant."""
    return _mosaics(samples, "photo mosaics", (2, 2))


def _mosaics(samples: int, name: str, mosaic: tuple[int, int]) -> Task:
    bundle, photos, labels = _photos()
    rows, columns = mosaic
    cell = (IMAGE_SIZE // columns, IMAGE_SIZE // rows)
    generator = torch.Generator().manual_seed(SEED)
    pictures, places, targets, others = [], [], [], []
    for _ in range(math.ceil(samples / (rows * columns))):
        chosen = _of_different_classes(labels, rows * columns, generator)
        picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
        for place, number in enumerate(chosen):
            part = _filled(photos[number], cell)
            picture.paste(part, (place % columns * cell[0], place // columns * cell[1]))
        for place, number in enumerate(chosen):
            pictures.append(bundle.transform(picture))
            places.append(place)
            targets.append(int(labels[number]))
            others.append(int(labels[chosen[(place + 1) % len(chosen)]]))
    cells = torch.tensor(places)
    truth = torch.zeros(len(cells), rows * columns).scatter_(1, cells[:, None], 1.0).reshape(-1, 1, rows, columns)
    patches = IMAGE_SIZE // PATCH_SIZE
    return Task(
        name=name,
        about=f"the same model; {rows * columns} of the photos on one picture, asked for each of their classes",
        model=bundle.model,
        inputs=torch.stack(pictures),
        targets=torch.tensor(targets),
        others=torch.tensor(others),
        fill=0.0,
        truth=_enlarged(truth, (patches // rows, patches // columns)),
        cells=cells,
        mosaic=mosaic,
        groups=torch.arange(len(cells)) // (rows * columns),
        masks=_enlarged(truth, (cell[1], cell[0])).long()[:, 0],
        ablated=0,
        gradient_steps=4,
        curves=False,
    )


def _of_different_classes(labels: Tensor, count: int, generator: torch.Generator) -> list[int]:
    first: dict[int, int] = {}
    for place in torch.randperm(len(labels), generator=generator).tolist():
        first.setdefault(int(labels[place]), place)
    return list(first.values())[:count]


def _filled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest part from the middle that has the sides' proportion, at that size."""
    scale = min(image.width / size[0], image.height / size[1])
    width, height = int(size[0] * scale), int(size[1] * scale)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)


def _enlarged(cells: Tensor, by: tuple[int, int]) -> Tensor:
    return cells.repeat_interleave(by[0], 2).repeat_interleave(by[1], 3)


def _photos() -> tuple[Any, list[Any], Tensor]:
    from train_photo_head import FITTED

    bundle = load_photo_model()
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("foolbox", "dev")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    known = [one for one in FITTED if "imagenet_" in one.place]
    images = [Image.open(folder / one.name).convert("RGB") for one in known]
    return bundle, images, torch.tensor([bundle.labels.index(one.label) for one in known])
