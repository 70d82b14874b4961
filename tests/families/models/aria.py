"""Aria: queries that read the patches of a picture or of each of its crops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import END, IMAGE, START, text, tower
from tests.families.models.shuffled import parts
from tests.families.scenes import Image, Prompt, Video

PATCH, LARGE = 140, 980
"""Pixels of a patch, and of a crop as its processor makes it."""
SIDE = 2 * PATCH
QUERIES = {4: 6, (LARGE // PATCH) ** 2: 8}
"""Tokens by the number of patches."""
SIZES = ((SIDE, SIDE), (SIDE, 3 * SIDE))


class Aria(Case):
    """Crops flat over the batch, the last rows of patches of each hidden."""

    def config(self) -> Any:
        from transformers import AriaConfig

        experts = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 2}
        return AriaConfig(
            vision_config=tower("idefics3_vision", image_size=LARGE, patch_size=PATCH),
            text_config=text("aria_text", **experts),
            projector_patch_to_query_dict=dict(QUERIES),
            image_token_index=IMAGE,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * QUERIES[4] * (image.width // SIDE), END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [one for prompt in prompts for one in parts(prompt)]
        if not shown:
            return {}
        crops = [scenes.pixels(Video(one.width // SIDE, SIDE, SIDE, one.seed)) for one in shown]
        pixels = torch.cat(crops)
        mask = torch.ones(len(pixels), SIDE, SIDE, dtype=torch.bool)
        mask[:, -PATCH:] = False
        return {"pixel_values": pixels, "pixel_mask": mask}


CASES = (Aria("aria", "AriaForConditionalGeneration", SIZES),)
