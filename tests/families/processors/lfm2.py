"""Processor of LFM2-VL."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import lfm2
from tests.families.models.common import END, IMAGE, PATCH, START
from tests.families.processors.common import VISION, Recipe, made


def _lfm2_vl(case: Case, tokenizer: Any) -> Any:
    shown = made(
        "Lfm2VlImageProcessor",
        encoder_patch_size=PATCH,
        downsample_factor=lfm2.FACTOR,
        tile_size=2 * lfm2.UNIT,
        min_image_tokens=4,
        max_image_tokens=16,
        max_tiles=4,
    )
    return made("Lfm2VlProcessor", image_processor=shown, tokenizer=tokenizer)


TILES = {
    lfm2.TILE + 4 * row + column: f"<|img_row_{row + 1}_col_{column + 1}|>"
    for row in range(4)
    for column in range(4)
}
RECIPES: dict[str, Recipe] = {
    "lfm2_vl": Recipe(
        _lfm2_vl,
        {
            IMAGE: "<image>",
            START: "<|image_start|>",
            END: "<|image_end|>",
            lfm2.OVERVIEW: "<|img_thumbnail|>",
            **TILES,
        },
        named={
            "image_token": IMAGE,
            "image_start_token": START,
            "image_end_token": END,
            "image_thumbnail_token": lfm2.OVERVIEW,
        },
        needs=VISION,
    ),
}
