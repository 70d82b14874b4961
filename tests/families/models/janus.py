"""Janus as it understands pictures, and DeepSeek-VL with two towers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    END,
    IMAGE,
    PATCH,
    START,
    WIDTH,
    siglip,
    text,
    tower,
)
from tests.families.scenes import Image, Prompt

SIDE = 48
UNITS = (SIDE // PATCH) ** 2
HIGH = 64
"""Pixels of the finer pictures of the second tower."""


class Janus(Case):
    """One square of patches for each picture, between two marks."""

    def config(self) -> Any:
        from transformers import JanusConfig

        drawn = {
            "embed_dim": 4,
            "num_embeddings": 16,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": WIDTH,
            "image_token_embed_dim": WIDTH,
        }
        own = {"image_size": SIDE, "projection_dim": WIDTH, "mlp_ratio": 2.0}
        vision = tower(**own, num_image_tokens=UNITS)
        del vision["intermediate_size"]
        return JanusConfig(
            vision_config=vision, vq_config=drawn, text_config=text("llama"), image_token_id=IMAGE
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * UNITS, END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [scenes.pixels(image) for image in scenes.images(prompts)]
        return {"pixel_values": torch.stack(shown)} if shown else {}


class DeepseekVLHybrid(Case):
    """The same without marks, with a second tower that sees each picture in finer patches."""

    def config(self) -> Any:
        from transformers import DeepseekVLHybridConfig

        finer = {
            "model_type": "sam_vision_model",
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": HIGH,
            "patch_size": 4,
            "window_size": 5,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
        }
        return DeepseekVLHybridConfig(
            vision_config=siglip(SIDE),
            high_res_vision_config=finer,
            text_config=text("llama"),
            image_token_id=IMAGE,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * UNITS

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = scenes.images(prompts)
        if not shown:
            return {}
        sides = {"pixel_values": SIDE, "high_res_pixel_values": HIGH}
        return {
            name: torch.stack([scenes.pixels(Image(side, side, one.seed)) for one in shown])
            for name, side in sides.items()
        }


SIZES = ((SIDE, SIDE), (SIDE, SIDE))
CASES = (
    Janus("janus", "JanusForConditionalGeneration", SIZES),
    DeepseekVLHybrid("deepseek_vl_hybrid", "DeepseekVLHybridForConditionalGeneration", SIZES),
)
