"""PerceptionLM: a tower of timm, 2x2 places averaged behind the projector."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import BLOCKS, HEADS, IMAGE, VIDEO, WIDTH, text
from tests.families.scenes import Image, Prompt, Video
from tests.towers import no_wrapper

SIDE, PATCH, POOL = 64, 16, 2
GRID = SIDE // PATCH
UNITS = (GRID // POOL) ** 2
TILES = 2


@dataclass(frozen=True, eq=False)
class PerceptionLM(Case):
    """Every picture has `TILES` tiles: the model takes one number of them in a call."""

    def config(self) -> Any:
        from transformers import PerceptionLMConfig

        tower = {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_tiny_patch16_384",
            "do_pooling": False,
            "model_args": {
                "embed_dim": WIDTH,
                "depth": BLOCKS,
                "num_heads": HEADS,
                "img_size": [SIDE, SIDE],
                "patch_size": PATCH,
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.1,
                "ref_feat_shape": [GRID, GRID],
            },
        }
        return PerceptionLMConfig(
            vision_config=tower,
            text_config=text("llama"),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            projector_pooling_ratio=POOL,
            vision_use_cls_token=True,
        )

    def missing(self, scene: str = "one") -> str | None:
        """The tower is timm's, which imports torchvision."""
        absent = [
            name for name in ("timm", "torchvision") if importlib.util.find_spec(name) is None
        ]
        if absent:
            return f"the tower needs {' and '.join(absent)}"
        return no_wrapper() or super().missing(scene)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * UNITS * TILES

    def video_ids(self, video: Video) -> list[int]:
        return [VIDEO] * UNITS * video.frames

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        images = [
            scenes.pixels(Video(TILES, SIDE, SIDE, image.seed)) for image in scenes.images(prompts)
        ]
        clips = [scenes.pixels(video) for video in scenes.videos(prompts)]
        call = {"pixel_values": torch.stack(images)} if images else {}
        return {**call, **({"pixel_values_videos": torch.stack(clips)} if clips else {})}


CASES = (
    PerceptionLM(
        "perception_lm",
        "PerceptionLMForConditionalGeneration",
        ((SIDE, SIDE), (SIDE, SIDE)),
        (3, SIDE, SIDE),
    ),
)
