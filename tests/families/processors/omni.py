"""Processors of the thinkers of Qwen2.5-Omni and Qwen3-Omni."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.families.case import Case
from tests.families.models import omni
from tests.families.models.common import END, IMAGE, START, VIDEO
from tests.families.processors.common import VISION, Recipe, images, made
from tests.families.processors.qwen import SETTINGS


def _omni(processor: str) -> Callable[[Any, Any], Any]:
    def build(case: Case, tokenizer: Any) -> Any:
        built = made(
            processor,
            image_processor=images("Qwen2VLImageProcessor", **SETTINGS),
            video_processor=made("Qwen2VLVideoProcessor", **SETTINGS),
            feature_extractor=made("WhisperFeatureExtractor", feature_size=omni.MELS),
            tokenizer=tokenizer,
        )
        # the size of clips that the class names counts above the one that is saved
        kind: Any = type(built)
        if hasattr(kind, "videos_kwargs"):
            kind.videos_kwargs = {**kind.videos_kwargs, "size": SETTINGS["size"]}
        return built

    return build


SPECIAL = {
    IMAGE: "<|IMAGE|>",
    VIDEO: "<|VIDEO|>",
    START: "<|vision_bos|>",
    END: "<|vision_eos|>",
    omni.AUDIO: "<|AUDIO|>",
    omni.AUDIO_START: "<|audio_bos|>",
    omni.AUDIO_END: "<|audio_eos|>",
}
NAMED = {
    "image_token": IMAGE,
    "video_token": VIDEO,
    "vision_bos_token": START,
    "vision_eos_token": END,
    "audio_token": omni.AUDIO,
    "audio_bos_token": omni.AUDIO_START,
    "audio_eos_token": omni.AUDIO_END,
}


def _recipe(processor: str) -> Recipe:
    picture, clip = "<|vision_bos|><|IMAGE|><|vision_eos|>", "<|vision_bos|><|VIDEO|><|vision_eos|>"
    return Recipe(_omni(processor), SPECIAL, picture, clip, NAMED, VISION)


RECIPES: dict[str, Recipe] = {
    "qwen2_5_omni": _recipe("Qwen2_5OmniProcessor"),
    "qwen3_omni_moe": _recipe("Qwen3OmniMoeProcessor"),
}
