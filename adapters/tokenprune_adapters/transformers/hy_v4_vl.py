"""Hy4: HunYuan-VL's way of seeing, an LLM of several streams whose heads have sinks."""

from __future__ import annotations

from typing import ClassVar

from tokenprune.interface.signals import View
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers.families import UNREAD, Family
from tokenprune_adapters.transformers.hyper_connected import HyperConnectedAdapter
from tokenprune_adapters.transformers.picture_kinds import POOLED, images, videos

MODEL = "transformers.models.hy_v4_vl.modeling_hy_v4_vl"
_FREE = (
    "inside the LLM in front of layers that take no indexer's choice from earlier ones; their "
    "attention isn't read"
)


class HyV4VlAdapter(HyperConnectedAdapter):
    """HYV4VLForConditionalGeneration."""

    name: ClassVar[str] = "hy_v4_vl"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.HYV4VLForConditionalGeneration",)
    family: ClassVar[Family] = Family(
        {
            **images(places.lined("image_grid_thw"), tower=POOLED),
            **videos(places.lined("video_grid_thw"), tower=POOLED),
        },
        apart=True,
        towers=("hunyuan-vision",),
        behind=False,
        notes=(_FREE,),
    )
    supplies: ClassVar[frozenset[type[View]]] = UNREAD
    towers: ClassVar[tuple[str, ...] | None] = family.towers
    behind: ClassVar[bool] = family.behind
    renumbers: ClassVar[bool] = False
    limits: ClassVar[tuple[str, ...]] = family.limits
