"""CLIP's vision encoder in transformers, alone or inside a CLIP model."""

from __future__ import annotations

from typing import ClassVar

from tokenprune.interface.signals import BLOCK_VIEWS, CLASS_VIEWS, TowerSpace, View
from tokenprune_adapters.transformers.vit import HfVitAdapter

_MODULE = "transformers.models.clip.modeling_clip"


class ClipAdapter(HfVitAdapter):
    """CLIPVisionModel (with or without projection), CLIPModel's vision half, the classifier.

    CLIPForImageClassification averages the patch tokens; its mean becomes size-weighted.
    """

    name: ClassVar[str] = "clip"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_MODULE}.CLIPVisionModel",
        f"{_MODULE}.CLIPVisionTransformer",
        f"{_MODULE}.CLIPVisionModelWithProjection",
        f"{_MODULE}.CLIPModel",
        f"{_MODULE}.CLIPForImageClassification",
    )
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.CLIPEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.CLIPAttention",)
    class_token: ClassVar[bool] = True
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS | CLASS_VIEWS | {TowerSpace}
    paired: ClassVar[bool] = True
    averaging: ClassVar[tuple[str, ...]] = (f"{_MODULE}.CLIPForImageClassification",)
