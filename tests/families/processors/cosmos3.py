"""Processors of Cosmos 3."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import cosmos3
from tests.families.models.common import PATCH
from tests.families.processors.common import VISION, Recipe, images, made
from tests.families.processors.qwen import QWEN, QWEN3

SETTINGS: dict[str, Any] = {
    "size": {"shortest_edge": 4 * cosmos3.UNIT**2, "longest_edge": 64 * cosmos3.UNIT**2},
    "patch_size": PATCH,
    "temporal_patch_size": 1,
    "merge_size": cosmos3.MERGE,
}


def _edge(case: Case, tokenizer: Any) -> Any:
    return made(
        "Cosmos3EdgeProcessor",
        image_processor=images("Cosmos3EdgeImageProcessor", **SETTINGS),
        # without its metadata, no time can be written in front of a frame
        video_processor=made("Cosmos3EdgeVideoProcessor", return_metadata=True, **SETTINGS),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "cosmos3_omni": QWEN3,
    "cosmos3_edge": Recipe(_edge, QWEN, QWEN3.picture, QWEN3.clip, needs=VISION),
}
