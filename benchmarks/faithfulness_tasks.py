"""What ``faithfulness.py`` measures on: trained models with real, labelled inputs, and a truth where there is one."""

from __future__ import annotations

import math
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attrib_plugin.app import bundled, digit_canvases
from attrib_plugin.evaluation import token_units
from attrib_plugin.postprocessing import encode_text, group_words

ROOT = Path(__file__).parents[1]
SEED = 7
sys.path.insert(0, str(ROOT / "scripts"))  # the scripts that trained the models know their held-out data


@dataclass(frozen=True)
class Task:
    """A model, inputs that it classifies as people do, and what is known about them.

    Attributes:
        name: Name of the task.
        about: One line on model and data, for the page.
        model: Unmodified.
        inputs: One row a sample.
        targets: The class asked for, which is the true one.
        others: A class that is not it.
        fill: What a removed unit becomes.
        steps: Steps of the curves; ``None`` is one unit a step.
        arguments: Further positional arguments of the model.
        feature_mask: For text: unit of every token, -1 at special tokens.
        truth: A map of the truth, where there is one.
        cells: Quadrant of the object.
        masks: Pixels of the object.
        rationales: Tokens that people would mark.
        black: What black is to the model, where the pixel test is run.
        robustness: Whether noise and randomised weights are tried.
        ablated: Units side by side that the occlusion oracle removes at once.
        gradient_steps: Steps of Integrated Gradients.
        curves: Whether units are removed at all.
    """

    name: str
    about: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    others: Tensor
    fill: Any
    steps: int | None = None
    arguments: tuple[Tensor, ...] = ()
    feature_mask: Tensor | None = None
    truth: Tensor | None = None
    cells: Tensor | None = None
    masks: Tensor | None = None
    rationales: Tensor | None = None
    black: Any = None
    robustness: bool = False
    ablated: int = 1
    gradient_steps: int = 20
    curves: bool = True

    @property
    def is_text(self) -> bool:
        """Whether the inputs are token ids."""
        return self.inputs.dim() == 2


def digits(samples: int) -> Task:
    """Single held-out digits that the model reads rightly."""
    model = bundled.load("digits").model
    held_out = digit_canvases.held_out_digits()
    mean = digit_canvases.training_digits().images.mean()
    with torch.no_grad():
        scores = model(held_out.images)
    right = (scores.argmax(1) == held_out.labels).nonzero().flatten()[:samples]
    second = scores[right].scatter(1, held_out.labels[right, None], -math.inf).argmax(1)
    return Task(
        name="digits",
        about="ViT of 6 layers on 28x28 pixels, 16 patches; held-out MNIST digits that it reads rightly",
        model=model,
        inputs=held_out.images[right],
        targets=held_out.labels[right],
        others=second,
        fill=mean,
        black=0.0,
        robustness=True,
    )


def multi_digits(samples: int) -> Task:
    """Digits found on canvases of several: what speaks for a digit lies in its quadrant."""
    model = bundled.load("multi-digits").model
    generator = torch.Generator().manual_seed(SEED)
    canvases = digit_canvases.compose_canvases(digit_canvases.held_out_digits(), samples, generator=generator)
    with torch.no_grad():
        scores = model(canvases.images)
    asked = canvases.quadrants.clamp(min=0)
    canvas, quadrant = ((canvases.quadrants >= 0) & (scores.gather(1, asked) > 0)).nonzero(as_tuple=True)
    # One digit of every canvas, drawn, so that samples are independent.
    order = torch.randperm(len(canvas), generator=generator)
    first = {int(canvas[place]): int(place) for place in order.tolist()[::-1]}
    chosen = torch.tensor([first[number] for number in sorted(first)])
    canvas, quadrant = canvas[chosen], quadrant[chosen]
    images, targets = canvases.images[canvas], asked[canvas, quadrant]
    quarter = torch.zeros(len(images), 4).scatter_(1, quadrant[:, None], 1.0).reshape(-1, 1, 2, 2)
    return Task(
        name="multi-digits",
        about="ViT of 6 layers on 56x56 pixels, 64 patches; one digit asked for on each canvas of two to four",
        model=model,
        inputs=images,
        targets=targets,
        others=_other_digit(canvases.quadrants[canvas], targets),  # one that is there too
        fill=canvases.images.mean(),
        steps=16,
        truth=quarter.repeat_interleave(4, 2).repeat_interleave(4, 3),
        cells=quadrant,
        masks=(quarter.repeat_interleave(28, 2).repeat_interleave(28, 3) * images > 0.5).long()[:, 0],
    )


def _other_digit(quadrants: Tensor, targets: Tensor) -> Tensor:
    rows = zip(quadrants.tolist(), targets.tolist(), strict=True)
    return torch.tensor([next(one for one in row if one not in (-1, target)) for row, target in rows])


def sentiment(samples: int) -> Task:
    """Unseen snippets of film reviews that the model reads as people did; rated words stand for marked ones."""
    from train_sentiment import fetch_vader, read_snippets, split_by_text

    archive = fetch_vader(ROOT / ".cache" / "vader")
    ratings = read_lexicon(archive)
    bundle = bundled.load("sentiment")
    tokenizer = bundle.tokenizer
    snippets = split_by_text(read_snippets(archive, "movieReviewSnippets"))["test"]
    order = torch.randperm(len(snippets), generator=torch.Generator().manual_seed(SEED)).tolist()
    chosen: list[tuple[Tensor, Tensor, int]] = []
    for number in order:
        text, label = snippets[number]
        ids, tokens, _ = encode_text(tokenizer, text)
        if not 8 <= ids.shape[1] <= 24:
            continue
        valence = torch.zeros(ids.shape[1])
        for word in group_words(text, tokens):
            valence[list(word.tokens)] = ratings.get(word.text.lower(), 0.0)
        for_label = (valence if label else -valence).clamp(min=0)
        with torch.no_grad():
            predicted = int(bundle.model(ids).logits.argmax())
        if predicted == label and (for_label > 0).any():
            chosen.append((ids[0], for_label, label))
        if len(chosen) == samples:
            break
    longest = max(len(ids) for ids, _, _ in chosen)
    padding = tokenizer.pad_token_id
    ids = torch.stack([nn.functional.pad(ids, (0, longest - len(ids)), value=padding) for ids, _, _ in chosen])
    rated = torch.stack([nn.functional.pad(one, (0, longest - len(one))) for _, one, _ in chosen])
    labels = torch.tensor([label for _, _, label in chosen])
    return Task(
        name="sentiment",
        about="BERT of 6 layers; unseen snippets of film reviews that it classifies rightly, 8 to 24 tokens",
        model=bundle.model,
        inputs=ids,
        targets=labels,
        others=1 - labels,
        fill=tokenizer.mask_token_id,
        steps=8,
        arguments=((ids != padding).long(),),
        feature_mask=token_units(ids, keep=tokenizer.all_special_ids),
        truth=rated,
        rationales=rated > 0,
    )


def read_lexicon(archive: Path) -> dict[str, float]:
    """Mean human rating (-4 to 4) by word, out of the source distribution of vaderSentiment."""
    with tarfile.open(archive) as opened:
        member = next(name for name in opened.getnames() if name.endswith("vaderSentiment/vader_lexicon.txt"))
        stream = opened.extractfile(member)
        lines = stream.read().decode("utf-8").splitlines() if stream else []
    rows = (line.split("\t") for line in lines if line.strip())
    return {row[0]: float(row[1]) for row in rows}


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
        steps=6,
        ablated=2,
        gradient_steps=8,
    )


def photo_mosaics(samples: int) -> Task:
    """Mosaics of four photographs: what speaks for a class lies in its quadrant."""
    from PIL import Image

    bundle, photos, labels = _photos()
    generator = torch.Generator().manual_seed(SEED)
    mosaics, quadrants, targets, others = [], [], [], []
    for _ in range(math.ceil(samples / 4)):
        first: dict[int, int] = {}
        for place in torch.randperm(len(photos), generator=generator).tolist():
            first.setdefault(int(labels[place]), place)
        chosen = list(first.values())[:4]
        mosaic = Image.new("RGB", (224, 224))
        for quadrant, place in enumerate(chosen):
            width, height = photos[place].size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            square = (
                photos[place].crop((left, top, left + side, top + side)).resize((112, 112), Image.Resampling.BICUBIC)
            )
            mosaic.paste(square, (quadrant % 2 * 112, quadrant // 2 * 112))
        for quadrant, place in enumerate(chosen):
            mosaics.append(bundle.transform(mosaic))
            quadrants.append(quadrant)
            targets.append(int(labels[place]))
            others.append(int(labels[chosen[(quadrant + 1) % 4]]))
    cells = torch.tensor(quadrants)
    quarter = torch.zeros(len(cells), 4).scatter_(1, cells[:, None], 1.0).reshape(-1, 1, 2, 2)
    return Task(
        name="photo mosaics",
        about="the same model; mosaics of four of the photos, asked for each of the four classes",
        model=bundle.model,
        inputs=torch.stack(mosaics),
        targets=torch.tensor(targets),
        others=torch.tensor(others),
        fill=0.0,
        truth=quarter.repeat_interleave(8, 2).repeat_interleave(8, 3),
        cells=cells,
        masks=quarter.repeat_interleave(112, 2).repeat_interleave(112, 3).long()[:, 0],
        ablated=0,
        gradient_steps=4,
        curves=False,
    )


def _photos() -> tuple[Any, list[Any], Tensor]:
    from PIL import Image
    from train_photo_head import FITTED

    from attrib_plugin.app.photo import load_photo_model
    from attrib_plugin.errors import MissingDependencyError

    bundle = load_photo_model()
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("foolbox", "dev")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    known = [one for one in FITTED if "imagenet_" in one.place]
    images = [Image.open(folder / one.name).convert("RGB") for one in known]
    return bundle, images, torch.tensor([bundle.labels.index(one.label) for one in known])


TASKS: dict[str, tuple[Callable[[int], Task], int]] = {
    "sentiment": (sentiment, 24),
    "digits": (digits, 40),
    "multi-digits": (multi_digits, 48),
    "photo": (photo, 4),
    "photo mosaics": (photo_mosaics, 8),
}
"""Task and number of samples by default, which together take about twenty minutes of one core."""
