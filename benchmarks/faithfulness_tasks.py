"""What ``faithfulness.py`` measures on: trained models with real, labelled inputs, and a truth where there is one."""

from __future__ import annotations

import math
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch
from faithfulness_photos import photo, photo_mosaics, photo_pairs
from faithfulness_task import ROOT, SEED, Task
from torch import Tensor, nn

from attrib_plugin.app import bundled, digit_canvases
from attrib_plugin.evaluation import token_units
from attrib_plugin.postprocessing import encode_text, group_words


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
        steps=8,
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
        steps=8,
        truth=quarter.repeat_interleave(4, 2).repeat_interleave(4, 3),
        cells=quadrant,
        masks=(quarter.repeat_interleave(28, 2).repeat_interleave(28, 3) * images > 0.5).long()[:, 0],
        probability=torch.sigmoid,
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


TASKS: dict[str, Callable[[int], Task]] = {
    "sentiment": sentiment,
    "digits": digits,
    "multi-digits": multi_digits,
    "photo": photo,
    "photo pairs": photo_pairs,
    "photo mosaics": photo_mosaics,
}
"""What makes a task of some samples."""
