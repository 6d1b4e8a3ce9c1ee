"""BERT and its relatives in transformers, from RoBERTa to LayoutLM and ESM. Classifiers read the first token.

Maps of LayoutLM and TAPAS are over words; boxes and cells only place them.
"""

from typing import Any

from attrib_plugin.families.base import CLS, Family

_TYPES = {
    "bert.modeling_bert": "Bert",
    "big_bird.modeling_big_bird": "BigBird",
    "camembert.modeling_camembert": "Camembert",
    "data2vec.modeling_data2vec_text": "Data2VecText",
    "electra.modeling_electra": "Electra",
    "ernie.modeling_ernie": "Ernie",
    "esm.modeling_esm": "Esm",
    "ibert.modeling_ibert": "IBert",
    "layoutlm.modeling_layoutlm": "LayoutLM",
    "layoutlmv3.modeling_layoutlmv3": "LayoutLMv3",
    "luke.modeling_luke": "Luke",
    "markuplm.modeling_markuplm": "MarkupLM",
    "megatron_bert.modeling_megatron_bert": "MegatronBert",
    "rembert.modeling_rembert": "RemBert",
    "roberta.modeling_roberta": "Roberta",
    "roberta_prelayernorm.modeling_roberta_prelayernorm": "RobertaPreLayerNorm",
    "roc_bert.modeling_roc_bert": "RoCBert",
    "squeezebert.modeling_squeezebert": "SqueezeBert",
    "tapas.modeling_tapas": "Tapas",
    "xlm_roberta.modeling_xlm_roberta": "XLMRoberta",
    "xlm_roberta_xl.modeling_xlm_roberta_xl": "XLMRobertaXL",
    "xmod.modeling_xmod": "Xmod",
}
_FROM_ZERO = (
    *("bert", "big_bird", "electra", "ernie", "layoutlm", "megatron-bert"),
    *("rembert", "roc_bert", "squeezebert", "tapas"),
)


def _max_tokens(module: Any) -> int | None:
    config = module.config
    has_no_end = getattr(config, "position_embedding_type", "absolute") == "rotary"
    # TAPAS begins again in every cell, and its last position serves for all that follow.
    if has_no_end or getattr(config, "reset_position_index_per_cell", False):
        return None
    positions: int = config.max_position_embeddings
    # RoBERTa-like models number positions from the padding index on.
    return positions if config.model_type in _FROM_ZERO else positions - int(config.pad_token_id) - 1


HF_BERT = Family(
    name="hf_bert",
    modality="text",
    classes=tuple(f"transformers.models.{home}.{stem}PreTrainedModel" for home, stem in _TYPES.items()),
    readouts={
        f"{stem}{head}": CLS
        for stem in _TYPES.values()
        for head in ("ForSequenceClassification", "ForNextSentencePrediction")
    },
    max_tokens=_max_tokens,
)
