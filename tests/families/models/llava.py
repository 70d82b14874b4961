"""LLaVA and VipLLaVA: one tower, one size, one place for every patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import IMAGE, PATCH, clip, siglip, text
from tests.families.scenes import Image, Prompt

SIDE = 48
PATCHES = (SIDE // PATCH) ** 2


@dataclass(frozen=True, eq=False)
class Llava(Case):
    """LLaVA with a CLIP tower, or another tower by `vision`."""

    vision: str = "clip"

    def config(self) -> Any:
        from transformers import LlavaConfig

        own = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
        return LlavaConfig(
            vision_config=siglip(SIDE) if self.vision == "siglip" else clip(SIDE),
            text_config=text("qwen2" if self.vision == "siglip" else "llama"),
            image_token_index=IMAGE,
            image_seq_length=PATCHES,
            **(own if self.vision == "siglip" else {}),
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * PATCHES

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [scenes.pixels(image) for image in scenes.images(prompts)]
        return {"pixel_values": torch.stack(shown)} if shown else {}


class VipLlava(Llava):
    """VipLLaVA reads several layers of its tower."""

    def config(self) -> Any:
        from transformers import VipLlavaConfig

        return VipLlavaConfig(
            vision_config=clip(SIDE),
            text_config=text("llama"),
            image_token_index=IMAGE,
            image_seq_length=PATCHES,
            vision_feature_layers=[-2, -3, 2],
        )


CASES = (
    Llava("llava", "LlavaForConditionalGeneration", ((SIDE, SIDE),) * 2),
    Llava("llava-siglip", "LlavaForConditionalGeneration", ((SIDE, SIDE),) * 2, vision="siglip"),
    VipLlava("vipllava", "VipLlavaForConditionalGeneration", ((SIDE, SIDE),) * 2),
)
