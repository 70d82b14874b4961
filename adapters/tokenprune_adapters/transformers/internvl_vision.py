"""InternVL's vision tower in transformers."""

from __future__ import annotations

from typing import ClassVar

from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import INTERNVL, VisionNames

_MODULE = "transformers.models.internvl.modeling_internvl"


class InternVLVisionAdapter(HfVitAdapter):
    """InternVLVisionModel: layer scale, a class token, query and key normed over all heads.

    InternVL2, 2.5 and 3 as remote code (`internvl_chat`) are other classes and not claimed.
    """

    name: ClassVar[str] = "internvl-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.InternVLVisionModel",)
    names: ClassVar[VisionNames] = INTERNVL
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.InternVLVisionLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.InternVLVisionAttention",)
    class_token: ClassVar[bool] = True
