"""Processors of towers of Pixtral, of PaddleOCR-VL, of PerceptionLM and of Llama 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.families.case import Case
from tests.families.models import hunyuan, llama4, mistral3, paddleocr, perception, shuffled
from tests.families.models.common import BREAK, END, IMAGE, PATCH, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made, square


def _pixtral(case: mistral3.Mistral3, tokenizer: Any) -> Any:
    shown = images(
        "PixtralImageProcessor", size={"longest_edge": mistral3.LARGEST}, patch_size=square(PATCH)
    )
    return made(
        "PixtralProcessor",
        image_processor=shown,
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=case.merge,
    )


def _lighton_ocr(case: mistral3.Mistral3, tokenizer: Any) -> Any:
    shown = images(
        "PixtralImageProcessor",
        size={"longest_edge": mistral3.LARGEST},
        patch_size=square(PATCH * case.merge),
    )
    return made(
        "LightOnOcrProcessor",
        image_processor=shown,
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=case.merge,
    )


def _hunyuan(case: Case, tokenizer: Any) -> Any:
    sizes = {"shortest_edge": 4 * hunyuan.UNIT**2, "longest_edge": 64 * hunyuan.UNIT**2}
    own = images("HunYuanVLImageProcessor", size=sizes, patch_size=PATCH, merge_size=hunyuan.MERGE)
    return made("HunYuanVLProcessor", image_processor=own, tokenizer=tokenizer)


def _hyv4(case: Case, tokenizer: Any) -> Any:
    sizes = {"shortest_edge": 4 * hunyuan.UNIT**2, "longest_edge": 64 * hunyuan.UNIT**2}
    settings = {"size": sizes, "patch_size": PATCH, "merge_size": hunyuan.MERGE}
    return made(
        "HYV4VLProcessor",
        image_processor=images("HYV4VLImageProcessor", **settings),
        video_processor=made("HYV4VLVideoProcessor", **settings),
        tokenizer=tokenizer,
    )


def _paddleocr(case: Case, tokenizer: Any) -> Any:
    sizes = {"shortest_edge": 4 * paddleocr.UNIT**2, "longest_edge": 64 * paddleocr.UNIT**2}
    shown = images(
        "PaddleOCRVLImageProcessor", size=sizes, patch_size=PATCH, merge_size=paddleocr.MERGE
    )
    return made("PaddleOCRVLProcessor", image_processor=shown, tokenizer=tokenizer)


def _perception_lm(case: Case, tokenizer: Any) -> Any:
    return made(
        "PerceptionLMProcessor",
        image_processor=made(
            "PerceptionLMImageProcessor",
            tile_size=perception.SIDE,
            max_num_tiles=4,
            vision_input_type="thumb+tile",
        ),
        video_processor=made("PerceptionLMVideoProcessor", size=square(perception.SIDE)),
        tokenizer=tokenizer,
        patch_size=perception.PATCH,
        pooling_ratio=perception.POOL,
    )


def _llama4(case: Case, tokenizer: Any) -> Any:
    size = square(shuffled.SIDE)
    return made(
        "Llama4Processor",
        image_processor=made("Llama4ImageProcessor", size=size, max_patches=4),
        tokenizer=tokenizer,
        patch_size=PATCH,
        pixel_shuffle_ratio=1 / shuffled.MERGE,
    )


PIXTRAL = Recipe(
    _pixtral,
    {IMAGE: "[IMG]", BREAK: "[IMG_BREAK]", END: "[IMG_END]"},
    "[IMG]",
    needs=VISION,
)
LLAMA4 = {
    IMAGE: "<|patch|>",
    START: "<|image_start|>",
    END: "<|image_end|>",
    shuffled.WHOLE: "<|image|>",
    llama4.BETWEEN: "<|tile_x_separator|>",
    llama4.BELOW: "<|tile_y_separator|>",
}
RECIPES: dict[str, Recipe] = {
    "llama4": Recipe(_llama4, LLAMA4, "<|image|>", needs=VISION),
    "mistral3": PIXTRAL,
    "mistral_large4": PIXTRAL,
    "llava_pixtral": PIXTRAL,
    "lighton_ocr": replace(
        PIXTRAL,
        processor=_lighton_ocr,
        named={"image_token": IMAGE, "image_break_token": BREAK, "image_end_token": END},
    ),
    "hunyuan_vl": Recipe(
        _hunyuan,
        {IMAGE: "<image>", START: "<img>", END: "</img>"},
        "<img><image></img>",
        named={"image_token": IMAGE, "image_start_token": START, "image_end_token": END},
    ),
    "hy_v4_vl": Recipe(
        _hyv4,
        {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>", START: "<img>", END: "</img>"},
        "<img><|image_pad|></img>",
        "<img><|video_pad|></img>",
        needs=VISION,
    ),
    "paddleocr_vl": Recipe(
        _paddleocr,
        {
            IMAGE: "<|IMAGE_PLACEHOLDER|>",
            START: "<|IMAGE_START|>",
            END: "<|IMAGE_END|>",
        },
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        named={"image_token": IMAGE},
        needs=VISION,
    ),
    "perception_lm": Recipe(
        _perception_lm,
        {IMAGE: "<|image|>", VIDEO: "<|video|>"},
        "<|image|>",
        "<|video|>",
        {"image_token": IMAGE, "video_token": VIDEO},
        VISION,
    ),
}
