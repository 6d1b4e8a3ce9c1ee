"""Encoders with rotary positions in transformers (GTE, Jina, Nomic, ESM Cambrian): classifiers read the first token."""

from attrib_plugin.families.base import CLS, Family

_TYPES = {"esmc": "Esmc", "gte": "Gte", "jina_embeddings_v3": "JinaEmbeddingsV3", "nomic_bert": "NomicBert"}

HF_ROTARY_ENCODER = Family(
    name="hf_rotary_encoder",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    readouts={f"{stem}ForSequenceClassification": CLS for stem in _TYPES.values()},
)
