"""Processors of Muse Glimmer and Muse Spark."""

from __future__ import annotations

from typing import Any

from tests.families.models import muse
from tests.families.models.common import BREAK, END, IMAGE, PATCH, START, VIDEO
from tests.families.processors.common import VISION, Recipe, made

SETTINGS: dict[str, Any] = {
    "patch_size": PATCH,
    "temporal_patch_size": muse.TEMPORAL,
    "merge_size": muse.MERGE,
}


def _muse(case: muse.MuseGlimmer, tokenizer: Any) -> Any:
    hears = {}
    if case.heard:
        step = muse.SOUND // muse.SPOKEN
        hears["feature_extractor"] = made("MuseSparkFeatureExtractor", samples_per_token=step)
    return made(
        f"{type(case).__name__}Processor",
        image_processor=made("MuseGlimmerImageProcessor", max_image_tokens=16, **SETTINGS),
        video_processor=made(
            "MuseGlimmerVideoProcessor",
            max_video_frame_tokens=9,
            # which the processor needs, and doesn't ask for by itself
            return_metadata=True,
            **SETTINGS,
        ),
        tokenizer=tokenizer,
        **hears,
    )


SPECIAL = {
    IMAGE: "<|patch|>",
    VIDEO: "<|video|>",
    START: "<|image_start|>",
    END: "<|image_end|>",
    BREAK: "<|vid_frame_separator|>",
    13: "<|vid_start|>",
    14: "<|vid_end|>",
}
HEARD = {
    muse.AUDIO: "<|audio|>",
    muse.AUDIO_START: "<|soft_audio_start|>",
    muse.AUDIO_END: "<|soft_audio_end|>",
}
RECIPES: dict[str, Recipe] = {
    "muse_glimmer": Recipe(_muse, SPECIAL, "<|patch|>", "<|video|>", needs=VISION),
    "muse_spark": Recipe(_muse, {**SPECIAL, **HEARD}, "<|patch|>", "<|video|>", needs=VISION),
}
