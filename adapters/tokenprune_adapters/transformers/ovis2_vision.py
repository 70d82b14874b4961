"""Ovis2's vision transformer in transformers, in front of the head that makes visual words."""

from __future__ import annotations

from typing import ClassVar

from tokenprune.interface.signals import BLOCK_VIEWS, View
from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import OVIS2, VisionNames

_MODULE = "transformers.models.ovis2.modeling_ovis2"


class Ovis2VisionAdapter(HfVitAdapter):
    """Ovis2VisionTransformer (AIMv2): norms by root mean square, no class token."""

    name: ClassVar[str] = "ovis2-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Ovis2VisionTransformer",)
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS
    names: ClassVar[VisionNames] = OVIS2
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Ovis2VisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Ovis2VisionAttention",)
    class_token: ClassVar[bool] = False
