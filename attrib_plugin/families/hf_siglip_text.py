"""SigLIP's text tower in transformers: its head reads the last position, padded or not."""

import torch

from attrib_plugin.families.base import Family

HF_SIGLIP_TEXT = Family(
    name="hf_siglip_text",
    modality="text",
    classes=(
        "transformers.models.siglip.modeling_siglip.SiglipTextModel",
        "transformers.models.siglip.modeling_siglip.SiglipTextTransformer",  # the tower inside, in transformers 4
        "transformers.models.siglip2.modeling_siglip2.Siglip2TextModel",
    ),
    read_positions=lambda module, inputs: torch.full((len(inputs),), inputs.shape[1] - 1, device=inputs.device),
    max_tokens=lambda module: int(module.config.max_position_embeddings),
)
