"""Janus's vision tower in transformers, with which it understands pictures."""

from __future__ import annotations

from typing import ClassVar

from tokenprune.interface.signals import BLOCK_VIEWS, View
from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import JANUS, VisionNames

_MODULE = "transformers.models.janus.modeling_janus"


class JanusVisionAdapter(HfVitAdapter):
    """JanusVisionModel: SigLIP's blocks under other names, no class token."""

    name: ClassVar[str] = "janus-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.JanusVisionModel",)
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS
    names: ClassVar[VisionNames] = JANUS
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.JanusVisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.JanusVisionAttention",)
    class_token: ClassVar[bool] = False
