"""Ovis2: 2x2 patches become a distribution over visual words, an overview in front of tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families.case import Case
from tests.families.models.common import IMAGE, VOCABULARY, WIDTH, text, tower
from tests.families.models.shuffled import MERGE, SIDE, SIZES, UNITS, parts, stack, tiles
from tests.families.scenes import Image, Prompt

WORDS = 48
BEGIN, FINISH, GRID, COLUMN, ROW = INDICATORS = (10, 11, 12, 13, 14)
"""Ids that the core replaces by rows of the visual vocabulary, too."""


class Ovis2(Case):
    """Tiles flat over the batch, each behind one mark."""

    def config(self) -> Any:
        from transformers import Ovis2Config

        return Ovis2Config(
            vision_config=tower(
                image_size=SIDE,
                hidden_stride=MERGE,
                vocab_size=WORDS,
                num_visual_indicator_tokens=len(INDICATORS),
            ),
            text_config=text("qwen2"),
            image_token_id=IMAGE,
            visual_indicator_token_ids=list(INDICATORS),
            hidden_size=WIDTH,
            vocab_size=VOCABULARY,
        )

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        """In float64 with rows one behind the other: norms sum in float32, and in another order."""
        model = super().create(dtype, attention)
        if dtype == torch.float64:
            embeddings = model.model.vision_tower.transformer.embeddings
            embeddings.register_forward_hook(lambda module, args, out: out.contiguous())
        return model

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        row, whole = [BEGIN], [IMAGE] * UNITS
        row += [*whole, GRID]
        high, wide = image.height // SIDE, image.width // SIDE
        if tiles(image) > 1:
            for line in range(high):
                for column in range(wide):
                    row += [*whole, *[COLUMN] * (column < wide - 1)]
                row += [ROW] * (line < high - 1)
        return [*row, FINISH]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [stack(part) for prompt in prompts for part in parts(prompt)]
        return {"pixel_values": torch.cat(shown)} if shown else {}


CASES = (Ovis2("ovis2", "Ovis2ForConditionalGeneration", SIZES),)
