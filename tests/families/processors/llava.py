"""Processors of the LLaVA family."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import fast_vlm, llava, tiled, video_llava
from tests.families.models.common import IMAGE, PATCH
from tests.families.processors.common import BOTH, VISION, Recipe, images, made, square


def _clip(side: int) -> Any:
    return images("CLIPImageProcessor", size={"shortest_edge": side}, crop_size=square(side))


def _llava(case: llava.Llava, tokenizer: Any) -> Any:
    siglip = case.vision == "siglip"
    shown = images("SiglipImageProcessor", size=square(llava.SIDE)) if siglip else None
    return made(
        "LlavaProcessor",
        image_processor=shown or _clip(llava.SIDE),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full" if siglip else "default",
        num_additional_image_tokens=0 if siglip else 1,
    )


def _fast_vlm(case: Case, tokenizer: Any) -> Any:
    return made(
        "LlavaProcessor",
        image_processor=_clip(fast_vlm.SIDE),
        tokenizer=tokenizer,
        patch_size=fast_vlm.PATCH,
        vision_feature_select_strategy="full",
    )


def tiles(case: tiled.LlavaNext) -> Any:
    """The image processor of LLaVA-NeXT."""
    return images(
        "LlavaNextImageProcessor",
        size={"shortest_edge": case.side},
        crop_size=square(case.side),
        image_grid_pinpoints=case.pinpoints,
    )


def _llava_next(case: tiled.LlavaNext, tokenizer: Any) -> Any:
    return made(
        "LlavaNextProcessor",
        image_processor=tiles(case),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _llava_next_video(case: tiled.LlavaNextVideo, tokenizer: Any) -> Any:
    return made(
        "LlavaNextVideoProcessor",
        image_processor=tiles(case),
        video_processor=made(
            "LlavaNextVideoVideoProcessor",
            size={"shortest_edge": case.side},
            crop_size=square(case.side),
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _llava_onevision(case: tiled.LlavaOnevision, tokenizer: Any) -> Any:
    return made(
        "LlavaOnevisionProcessor",
        image_processor=images(
            "LlavaOnevisionImageProcessor",
            size=square(case.side),
            image_grid_pinpoints=case.pinpoints,
        ),
        video_processor=made("LlavaOnevisionVideoProcessor", size=square(case.side)),
        tokenizer=tokenizer,
        num_image_tokens=case.patches**2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=f"anyres_max_{case.most}",
    )


def _video_llava(case: Case, tokenizer: Any) -> Any:
    sizes: dict[str, Any] = {
        "size": {"shortest_edge": video_llava.SIDE},
        "crop_size": square(video_llava.SIDE),
    }
    return made(
        "VideoLlavaProcessor",
        image_processor=made("VideoLlavaImageProcessor", **sizes),
        video_processor=made("VideoLlavaVideoProcessor", **sizes),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


LLAVA = Recipe(_llava, {IMAGE: "<image>"})
ONEVISION = Recipe(_llava_onevision, BOTH, needs=VISION)
RECIPES: dict[str, Recipe] = {
    "llava": LLAVA,
    "llava-siglip": LLAVA,
    "vipllava": LLAVA,
    "fast_vlm": Recipe(_fast_vlm, {IMAGE: "<image>"}),
    "llava_next": Recipe(_llava_next, {IMAGE: "<image>"}),
    "llava_next_video": Recipe(_llava_next_video, BOTH, needs=VISION),
    "llava_onevision": ONEVISION,
    "llava_onevision-resized": ONEVISION,
    "video_llava": Recipe(_video_llava, BOTH, needs=VISION),
}
