"""Processors of Qwen2-VL to Qwen4-Exp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.families.case import Case
from tests.families.models import dots3, qwen
from tests.families.models.common import END, IMAGE, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made

SETTINGS: dict[str, Any] = {
    "size": {"shortest_edge": 4 * qwen.GROUP**2, "longest_edge": 64 * qwen.GROUP**2},
    "patch_size": qwen.PATCH,
    "temporal_patch_size": qwen.TEMPORAL,
    "merge_size": qwen.MERGE,
}
"""Of processors of pictures and clips that make patches of squares."""


def _qwen(
    processor: str, videos: str, pictures: str = "Qwen2VLImageProcessor"
) -> Callable[[Any, Any], Any]:
    def build(case: Case, tokenizer: Any) -> Any:
        return made(
            processor,
            image_processor=images(pictures, **SETTINGS),
            video_processor=made(videos, **SETTINGS),
            tokenizer=tokenizer,
        )

    return build


def _packed(processor: str, videos: str) -> Recipe:
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    clip = "<|vision_start|><|video_pad|><|vision_end|>"
    return Recipe(_qwen(processor, videos), QWEN, picture, clip, needs=VISION)


QWEN = {
    IMAGE: "<|image_pad|>",
    VIDEO: "<|video_pad|>",
    START: "<|vision_start|>",
    END: "<|vision_end|>",
}
COMPASS = Recipe(
    _qwen("CohereCompassProcessor", "CohereCompassVideoProcessor", "CohereCompassImageProcessor"),
    {
        IMAGE: "<|IMAGE_PAD|>",
        VIDEO: "<|VIDEO_PAD|>",
        START: "<|VISION_START|>",
        END: "<|VISION_END|>",
    },
    "<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
    "<|VIDEO_PAD|>",
    needs=VISION,
)
QWEN3 = _packed("Qwen3VLProcessor", "Qwen3VLVideoProcessor")


def _dots3(case: Case, tokenizer: Any) -> Any:
    settings = {**SETTINGS, "temporal_patch_size": 1}
    return made(
        "Dots3NoteProcessor",
        image_processor=images("Qwen2VLImageProcessor", **settings),
        video_processor=made("Qwen3VLVideoProcessor", **settings),
        feature_extractor=made("Dots3NoteFeatureExtractor", feature_size=dots3.MELS),
        tokenizer=tokenizer,
    )


RECIPES: dict[str, Recipe] = {
    "qwen2_vl": _packed("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": _packed("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "exaone4_5": _packed("Exaone4_5_Processor", "Qwen2VLVideoProcessor"),
    "hyperclovax_vision_v2": replace(
        _packed("HyperCLOVAXVisionV2Processor", "Qwen2VLVideoProcessor"),
        picture="<|image_pad|>",
        clip="<|video_pad|>",
    ),
    "cohere_compass": COMPASS,
    "qwen3_vl": QWEN3,
    "qwen3_vl_moe": QWEN3,
    "qwen3_5": QWEN3,
    "qwen3_5_moe": QWEN3,
    "qwen4_exp": QWEN3,
    "dots3_note": Recipe(
        _dots3,
        {
            IMAGE: "<|imgpad|>",
            VIDEO: "<|video_pad|>",
            START: "<|img|>",
            END: "<|endofimg|>",
            dots3.AUDIO: "<|audio_comp_pad|>",
        },
        "<|img|><|imgpad|><|endofimg|>",
        "<|img|><|video_pad|><|endofimg|>",
        needs=VISION,
    ),
    "lfm3_vl": _packed("Lfm3VlProcessor", "Qwen3VLVideoProcessor"),
}
