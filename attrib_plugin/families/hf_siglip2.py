"""SigLIP 2's image tower in transformers: it takes images cut into patches, so the caller cuts them and names the grid.

Method(function, model=model, grid=(rows, columns)), where the function cuts images (B, C, H, W) row by row.
"""

from typing import Any

from attrib_plugin.families.base import MEAN, POOL, Family
from attrib_plugin.records import Readout


def _readout(module: Any) -> Readout | None:
    return POOL if type(module).__name__ == "Siglip2VisionModel" else None


HF_SIGLIP2 = Family(
    name="hf_siglip2",
    modality="image",
    classes=tuple(
        f"transformers.models.siglip2.modeling_siglip2.{name}"
        for name in ("Siglip2ForImageClassification", "Siglip2VisionModel")
    ),
    readouts={"Siglip2ForImageClassification": MEAN},
    readout=_readout,
)
