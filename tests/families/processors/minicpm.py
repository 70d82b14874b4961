"""Processors of MiniCPM-V 4.6 and 4.7, and of MiniCPM-OCR."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import minicpm
from tests.families.models.common import END, IMAGE, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made

NUMBER_START, NUMBER_END = 12, 13
SETTINGS: dict[str, Any] = {
    "scale_resolution": 3 * minicpm.UNIT,
    "patch_size": minicpm.PATCH,
    "max_slice_nums": 4,
}


def _minicpm(case: Case, tokenizer: Any) -> Any:
    own, settings = "MiniCPMV4_6", SETTINGS
    if case.name == "minicpm_ocr":
        own, settings = "MiniCPMOcr", {**SETTINGS, "downsample_mode": "4x"}
    return made(
        case.model_class.replace("ForConditionalGeneration", "Processor"),
        image_processor=images(f"{own}ImageProcessor", **settings),
        video_processor=made(f"{own}VideoProcessor", **settings),
        tokenizer=tokenizer,
    )


RECIPE = Recipe(
    _minicpm,
    {
        IMAGE: "<|image_pad|>",
        VIDEO: "<|video_pad|>",
        START: "<image>",
        END: "</image>",
        minicpm.SLICE_START: "<slice>",
        minicpm.SLICE_END: "</slice>",
        NUMBER_START: "<image_id>",
        NUMBER_END: "</image_id>",
    },
    "<|image_pad|>",
    "<|video_pad|>",
    {
        "image_token": IMAGE,
        "video_token": VIDEO,
        "image_start_token": START,
        "image_end_token": END,
        "slice_start_token": minicpm.SLICE_START,
        "slice_end_token": minicpm.SLICE_END,
        "image_id_start_token": NUMBER_START,
        "image_id_end_token": NUMBER_END,
    },
    VISION,
)
RECIPES: dict[str, Recipe] = {"minicpmv4_6": RECIPE, "minicpmv4_7": RECIPE, "minicpm_ocr": RECIPE}
