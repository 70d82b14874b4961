"""Processors of Aya Vision and Cohere2 Vision."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import shuffled
from tests.families.models.common import BREAK, END, IMAGE, PATCH, START
from tests.families.processors.common import VISION, Recipe, images, made, square

TILES = {"size": square(shuffled.SIDE), "crop_to_patches": True, "min_patches": 1, "max_patches": 4}


def _aya_vision(case: Case, tokenizer: Any) -> Any:
    return made(
        "AyaVisionProcessor",
        image_processor=images("GotOcr2ImageProcessor", **TILES),
        tokenizer=tokenizer,
        patch_size=PATCH,
        img_size=shuffled.SIDE,
        downsample_factor=shuffled.MERGE,
    )


def _cohere2_vision(case: Case, tokenizer: Any) -> Any:
    # what this class calls the side of a patch counts the units along a tile's side
    side = shuffled.SIDE // PATCH // shuffled.MERGE
    own = made("Cohere2VisionImageProcessor", **TILES, patch_size=side)
    return made("Cohere2VisionProcessor", image_processor=own, tokenizer=tokenizer)


NAMES = {shuffled.TILE + n: f"TILE_{n + 1}" for n in range(16)}
AYA = {
    IMAGE: "<|IMG_PATCH|>",
    START: "<|START_OF_IMG|>",
    END: "<|END_OF_IMG|>",
    shuffled.WHOLE: "TILE_GLOBAL",
    **NAMES,
}
COHERE = {
    IMAGE: "<|IMG_PATCH|>",
    START: "<|START_OF_IMG|>",
    END: "<|END_OF_IMG|>",
    BREAK: "<|IMG_LINE_BREAK|>",
}
NAMED = {
    "image_token": IMAGE,
    "boi_token": START,
    "eoi_token": END,
    "img_line_break_token": BREAK,
}
RECIPES: dict[str, Recipe] = {
    "aya_vision": Recipe(_aya_vision, AYA),
    "cohere2_vision": Recipe(_cohere2_vision, COHERE, "<|IMG_PATCH|>", named=NAMED, needs=VISION),
}
