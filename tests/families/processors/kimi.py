"""Processor of Kimi K2.5."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import kimi
from tests.families.models.common import END, IMAGE, PATCH, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made

SETTINGS: dict[str, Any] = {
    "size": {"max_height": 16, "max_width": 16},
    "patch_size": PATCH,
    "merge_size": kimi.MERGE,
    "max_patches": 64,
}


def _kimi(case: Case, tokenizer: Any) -> Any:
    return made(
        "Kimi_K25Processor",
        image_processor=images("Kimi_K25ImageProcessor", **SETTINGS),
        video_processor=made("Kimi_K25VideoProcessor", temporal_patch_size=kimi.FRAMES, **SETTINGS),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "kimi_k25": Recipe(
        _kimi,
        {
            IMAGE: "<|media_pad|>",
            VIDEO: "<|kimi_k25_video_placeholder|>",
            START: "<|media_begin|>",
            END: "<|media_end|>",
            9: "<|media_content|>",
        },
        "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
        "<|kimi_k25_video_placeholder|>",
        {"image_token": IMAGE, "video_token": VIDEO},
        VISION,
    )
}
