"""Small text models of transformers by the stem of their names, and padded texts for them."""

from functools import cache

import pytest
import torch
import transformers
from torch.testing import assert_close

from attrib_plugin import AttentionRollout
from attrib_plugin.capture import CaptureSession

PAD, N_CLASSES, TARGETS = 1, 5, [1, 4, 2]
LENGTHS = (7, 4, 6)
EXACT = {"rtol": 0.0, "atol": 0.0}
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "num_labels": N_CLASSES,
    "pad_token_id": PAD,
}
GPT = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "num_labels": N_CLASSES}
MARKS = {"bos_token_id": 2, "eos_token_id": 3}
GROUPED = {**SMALL, **MARKS, "num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 8}
LOCAL = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SEPARATORS = {"cls_token_id": 2, "sep_token_id": 3}


# Name of the classes: configuration.
DECODERS = {
    "GPT2": {**GPT, **MARKS, "pad_token_id": PAD},
    "GPTBigCode": {**GPT, **MARKS, "pad_token_id": PAD},
    "GPTNeo": {
        **SMALL,
        **MARKS,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "GPTNeoX": {**SMALL, **MARKS},
    "OPT": {**SMALL, **MARKS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "Bloom": {**GPT, **MARKS, "hidden_size": 32, "pad_token_id": PAD},
    "Falcon": {**SMALL, **MARKS},
    "Llama": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": 4},
    "Qwen2": GROUPED,
    "Qwen3": WIDE_HEADS,
    "Mixtral": {**GROUPED, "num_local_experts": 2},
    "Qwen2Moe": {**GROUPED, **EXPERTS},
    "Qwen3Moe": {**WIDE_HEADS, **EXPERTS},
    "Gemma": WIDE_HEADS,
    "Gemma2": {**WIDE_HEADS, **LOCAL},
    "Gemma3Text": {**WIDE_HEADS, **LOCAL},
    "Phi": GROUPED,
    "Phi3": GROUPED,
    "Starcoder2": GROUPED,
    "StableLm": GROUPED,
    "Olmo": GROUPED,
    "SmolLM3": GROUPED,
    "Glm": WIDE_HEADS,
    "Glm4": WIDE_HEADS,
}
ENCODERS = {
    "Bert": SMALL,
    "Roberta": SMALL,
    "XLMRoberta": SMALL,
    "Camembert": SMALL,
    "Electra": SMALL,
    "DistilBert": {
        "vocab_size": 60,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "num_labels": N_CLASSES,
    },
    "Albert": {**SMALL, "embedding_size": 16},
    "Deberta": SMALL,
    "DebertaV2": SMALL,
    "MPNet": SMALL,
    "RoFormer": SMALL,
    "ModernBert": {**SMALL, **MARKS, **SEPARATORS, "local_attention": 6, "global_attn_every_n_layers": 2},
}
EAGER_ONLY = ("Bloom", "GPTNeo", "Gemma2", "Deberta", "DebertaV2", "MPNet", "RoFormer")


# Their eager softmax or their experts run in float32, so that a map is known to about 1e-6 of its maximum only.
ROUGH = ("Bloom", "GPTNeo", "Gemma2", "Mixtral", "Qwen2Moe", "Qwen3Moe")
LEARNED = ("GPT2", "GPTBigCode", "GPTNeo", "OPT")


@cache
def model_of(stem, task="SequenceClassification", implementation=None, dtype=torch.float64, **changes):
    """The seeded model of a family; weights are large, so that attention is far from uniform."""
    config_name = {"XLMRoberta": "XLMRobertaConfig"}.get(stem, f"{stem}Config")
    config = getattr(transformers, config_name)(**{**ENCODERS, **DECODERS}[stem] | changes)
    implementation = implementation or ("eager" if stem in EAGER_ONLY else "sdpa")
    torch.manual_seed(sum(map(ord, stem)))
    automatic = getattr(transformers, f"AutoModelFor{task}")
    try:
        model = automatic.from_config(config, attn_implementation=implementation).eval().to(dtype)
    except ValueError as error:
        if not transformers.__version__.startswith("4."):
            raise
        pytest.skip(f"transformers {transformers.__version__}: {str(error).splitlines()[0]}")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model


def text(side="right", lengths=LENGTHS):
    """Ids padded on one side, and their mask."""
    longest = max(lengths)
    ids = torch.randint(5, 60, (len(lengths), longest), generator=torch.Generator().manual_seed(3))
    position = torch.arange(longest)
    length = torch.tensor(lengths)[:, None]
    real = position < length if side == "right" else position >= longest - length
    return torch.where(real, ids, PAD), real.long()


def mask_of(mask):
    return {"forward_kwargs": {"attention_mask": mask}}


def read_weights(model, ids, **options):
    """What the head reads: a rollout that is nothing but residual leaves it as it is."""
    return AttentionRollout(model, residual=1.0).layer_rows(ids, **options)[-1]


def positions_that_matter(model, ids, mask=None, **inputs):
    """Tokens whose last attention output moves the scores, by autograd."""
    with CaptureSession(model, gradients=True) as session:
        scores = model(ids, attention_mask=mask, **inputs).logits
        gradient = session.output_gradients(scores.sum())[-1]
    batch = len(scores)
    by_sample = gradient.reshape(batch, -1, *gradient.shape[-2:])
    return by_sample.abs().sum((1, 3)) > 0


def assert_rows_alone(actual, alone, relative=1e-10):
    assert_close(actual, alone, rtol=0.0, atol=relative * alone.abs().max().item())
