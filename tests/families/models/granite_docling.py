"""Granite Docling: tiles in front of their whole, with features of several depths for the LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families.case import Case
from tests.families.models.common import IMAGE, START, WIDTH, text, tower
from tests.families.models.shuffled import SIDE, SIZES, TILE, WHOLE, parts, stack, tiles
from tests.families.scenes import Image, Prompt

PATCH, SHUFFLE = 4, 4
UNITS = (SIDE // PATCH // SHUFFLE) ** 2
LINE = TILE + 16
"""What stands behind every row of tiles."""


@dataclass(frozen=True, eq=False)
class GraniteDocling(Case):
    """Tiles of each prompt in a row of their own; `fine` makes four times as many tokens."""

    fine: bool = False

    def config(self) -> Any:
        from transformers import GraniteDoclingConfig

        multipliers = {"embedding_multiplier": 3.0, "attention_multiplier": 0.2}
        return GraniteDoclingConfig(
            vision_config=tower(
                image_size=SIDE,
                patch_size=PATCH,
                scale_factor=SHUFFLE,
                out_hidden_size=WIDTH,
                deepstack_visual_indexes=[0, 1, 2],
            ),
            text_config=text("granite_docling_text", **multipliers),
            image_token_id=IMAGE,
            density_router_hidden_size=8,
            tie_word_embeddings=False,
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        units = [IMAGE] * UNITS * (4 if self.fine else 1)
        count = tiles(image)
        if count == 1:
            return [START, TILE, *units, LINE]
        row = [one for tag in range(TILE, TILE + count - 1) for one in (START, tag, *units)]
        return [*row, LINE, LINE, START, WHOLE, *units, START]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        rows = [[tile for part in parts(prompt) for tile in stack(part)] for prompt in prompts]
        longest = max(map(len, rows))
        if not longest:
            return {}
        pixels = torch.zeros(len(rows), longest, 3, SIDE, SIDE, dtype=torch.float64)
        for number, row in enumerate(rows):
            for place, tile in enumerate(row):
                pixels[number, place] = tile
        counts = torch.tensor([len(row) for row in rows])
        found = {
            "pixel_values": pixels,
            "pixel_attention_mask": torch.arange(longest) < counts[:, None],
        }
        return found | ({"tile_fine_mask": torch.ones(len(rows)).bool()} if self.fine else {})


KIND = "GraniteDoclingForConditionalGeneration"
CASES = (
    GraniteDocling("granite_docling", KIND, SIZES),
    GraniteDocling("granite_docling-fine", KIND, SIZES, fine=True),
)
