"""TransformerEncoder of torch: a building block, so what the head reads has to be said by the user."""

from attrib_plugin.families.base import Family

TORCH_ENCODER = Family(
    name="torch_encoder",
    modality="any",
    classes=("torch.nn.modules.transformer.TransformerEncoder",),
)
