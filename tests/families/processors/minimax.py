"""Processor of MiniMax M3."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import minimax
from tests.families.models.common import END, IMAGE, PATCH, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made

SETTINGS: dict[str, Any] = {
    "patch_size": PATCH,
    "temporal_patch_size": minimax.TEMPORAL,
    "merge_size": minimax.MERGE,
}


def _minimax(case: Case, tokenizer: Any) -> Any:
    size = {"shortest_edge": 4 * minimax.UNIT**2, "longest_edge": 64 * minimax.UNIT**2}
    return made(
        "MiniMaxM3VLProcessor",
        image_processor=images("MiniMaxM3VLImageProcessor", size=size, **SETTINGS),
        video_processor=made(
            "MiniMaxM3VLVideoProcessor",
            vision_segment_max_frames=minimax.CHUNK,
            min_pixels=4 * minimax.UNIT**2,
            max_pixels=64 * minimax.UNIT**2,
            **SETTINGS,
        ),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "minimax_m3_vl": Recipe(
        _minimax,
        {
            IMAGE: "]<]image[>[",
            VIDEO: "]<]video[>[",
            START: "]<]start of image[>[",
            END: "]<]end of image[>[",
        },
        "]<]image[>[",
        "]<]video[>[",
        needs=VISION,
    )
}
