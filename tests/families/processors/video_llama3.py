"""Processor of VideoLLaMA 3."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models.common import IMAGE, PATCH, VIDEO
from tests.families.models.video_llama3 import MERGE
from tests.families.processors.common import BOTH, VISION, Recipe, images, made

UNIT = MERGE * PATCH


def _video_llama_3(case: Case, tokenizer: Any) -> Any:
    size = {"shortest_edge": 4 * UNIT**2, "longest_edge": 64 * UNIT**2}
    return made(
        "VideoLlama3Processor",
        image_processor=images("VideoLlama3ImageProcessor", size=size, patch_size=PATCH),
        video_processor=made(
            "VideoLlama3VideoProcessor", size=size, patch_size=PATCH, use_token_compression=False
        ),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "video_llama_3": Recipe(
        _video_llama_3,
        BOTH,
        named={"image_token": IMAGE, "video_token": VIDEO},
        needs=VISION,
    ),
}
