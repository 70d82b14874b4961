"""Processor of ERNIE 4.5 VL, which draws no times on frames here: that takes a font."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import ernie
from tests.families.models.common import END, IMAGE, PATCH, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made

SETTINGS: dict[str, Any] = {
    "size": {"shortest_edge": 4 * ernie.UNIT**2, "longest_edge": 64 * ernie.UNIT**2},
    "patch_size": PATCH,
    "merge_size": ernie.MERGE,
}


def _ernie(case: Case, tokenizer: Any) -> Any:
    return made(
        "Ernie4_5_VLMoeProcessor",
        image_processor=images("Ernie4_5_VLMoeImageProcessor", **SETTINGS),
        video_processor=made("Ernie4_5_VLMoeVideoProcessor", draw_on_frames=False, **SETTINGS),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "ernie4_5_vl_moe": Recipe(
        _ernie,
        {
            IMAGE: "<|IMAGE_PLACEHOLDER|>",
            VIDEO: "<|VIDEO_PLACEHOLDER|>",
            START: "<|IMAGE_START|>",
            END: "<|IMAGE_END|>",
            ernie.CLIP_START: "<|VIDEO_START|>",
            ernie.CLIP_END: "<|VIDEO_END|>",
        },
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        "<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>",
        {
            "image_token": IMAGE,
            "image_start_token": START,
            "image_end_token": END,
            "video_token": VIDEO,
            "video_start_token": ernie.CLIP_START,
            "video_end_token": ernie.CLIP_END,
        },
        VISION,
    )
}
