"""Processors of GLM-4.1V to GLM-4.6V and GLM-OCR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.families.case import Case
from tests.families.models import glm, qwen
from tests.families.models.common import END, IMAGE, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made


def _glm(name: str) -> Callable[[Any, Any], Any]:
    def build(case: Case, tokenizer: Any) -> Any:
        settings: dict[str, Any] = {
            "size": {"shortest_edge": 4 * qwen.GROUP**2, "longest_edge": 64 * qwen.GROUP**2},
            "patch_size": qwen.PATCH,
            "temporal_patch_size": qwen.TEMPORAL,
            "merge_size": qwen.MERGE,
        }
        return made(
            f"{name}Processor",
            image_processor=images(f"{name}ImageProcessor", **settings),
            video_processor=made(f"{name}VideoProcessor", **settings),
            tokenizer=tokenizer,
        )

    return build


GLM = {
    IMAGE: "<|image|>",
    VIDEO: "<|video|>",
    START: "<|begin_of_image|>",
    END: "<|end_of_image|>",
    glm.CLIP_START: "<|begin_of_video|>",
    glm.CLIP_END: "<|end_of_video|>",
}
PICTURE = "<|begin_of_image|><|image|><|end_of_image|>"
CLIP = "<|begin_of_video|><|video|><|end_of_video|>"


def _recipe(name: str) -> Recipe:
    return Recipe(_glm(name), GLM, PICTURE, CLIP, needs=VISION)


RECIPES: dict[str, Recipe] = {
    "glm4v": _recipe("Glm4v"),
    "glm46v": _recipe("Glm46V"),
    "glm4v_moe": _recipe("Glm4v"),
    "glm_ocr": _recipe("Glm46V"),
}
