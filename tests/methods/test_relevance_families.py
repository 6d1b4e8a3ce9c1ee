"""Relevance rules on further text models; the families of the contract suite are tested there."""

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin import AttentionAwareRelevance, TransformerAttribution
from attrib_plugin.errors import UnsupportedOperationError

_BERT = dict(
    vocab_size=60, num_labels=3, pad_token_id=0, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=40,
)  # fmt: skip
_GROUPED = {**_BERT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_GPT = dict(vocab_size=60, num_labels=3, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MODELS = {
    "Electra": {**_BERT, "embedding_size": 32},
    "XLMRoberta": {**_BERT, "pad_token_id": 1},
    "Ernie": _BERT,
    "Qwen2": _GROUPED,
    "Qwen3": {**_GROUPED, "head_dim": 8},
    "Gemma": {**_GROUPED, "head_dim": 8},
    "Gemma2": {**_GROUPED, "head_dim": 8},
    "Phi3": _GROUPED,
    "GPTNeoX": {**_BERT, "bos_token_id": 1, "eos_token_id": 2},
    "GPTJ": {**_GPT, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 40},
    "Falcon": {**_GPT, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "OPT": {
        **_GPT, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
        "word_embed_proj_dim": 32, "max_position_embeddings": 40,
    },
}  # fmt: skip
LENGTHS, TARGETS = (7, 5, 6), [1, 2, 0]


def build(name, settings):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def padded_ids(padding):
    ids = torch.randint(3, 60, (3, max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return ids.masked_fill(~mask, padding), mask.long()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [TransformerAttribution, AttentionAwareRelevance])
def test_a_padded_batch_is_its_texts_alone(name, method):
    explainer = method(build(name, MODELS[name]))
    ids, mask = padded_ids(MODELS[name]["pad_token_id"])

    batch = explainer.attribute(ids, TARGETS, forward_kwargs={"attention_mask": mask})

    for sample, length in enumerate(LENGTHS):
        text, keywords = ids[sample : sample + 1, :length], {"attention_mask": mask[sample : sample + 1, :length]}
        alone = explainer.attribute(text, TARGETS[sample], forward_kwargs=keywords)
        assert alone.any()
        assert_close(batch[sample, :length], alone[0], rtol=0, atol=1e-9 * float(alone.abs().max()))
        assert not batch[sample, length:].any()


def test_a_mixture_of_experts_is_refused_with_the_operation_that_has_no_rule():
    model = build("Mixtral", {**_GROUPED, "num_local_experts": 2})
    ids, mask = padded_ids(0)

    with pytest.raises(
        UnsupportedOperationError, match=r"topk in 'model\.layers\.0\.mlp\.gate', for which there is no"
    ):
        AttentionAwareRelevance(model).attribute(ids, TARGETS, forward_kwargs={"attention_mask": mask})
