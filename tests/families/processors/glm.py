"""Processors of GLM-4.1V to GLM-4.6V and GLM-OCR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.families.case import Case
from tests.families.models import glm
from tests.families.models.common import END, IMAGE, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made
from tests.families.processors.qwen import SETTINGS


def _glm(name: str, **sizes: Any) -> Callable[[Any, Any], Any]:
    def build(case: Case, tokenizer: Any) -> Any:
        return made(
            f"{name}Processor",
            image_processor=images(f"{name}ImageProcessor", **SETTINGS, **sizes),
            video_processor=made(f"{name}VideoProcessor", **SETTINGS, **sizes),
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


def _recipe(name: str, **sizes: Any) -> Recipe:
    return Recipe(_glm(name, **sizes), GLM, PICTURE, CLIP, needs=VISION)


RECIPES: dict[str, Recipe] = {
    "glm4v": _recipe("Glm4v"),
    "glm46v": _recipe("Glm46V"),
    "glm4v_moe": _recipe("Glm4v"),
    "glm_ocr": _recipe("Glm46V"),
    "glm5_next": _recipe("Glm5Next", min_image_tokens=4, max_image_tokens=64),
}
