"""Video-LLaVA: a tower for pictures and one for clips, whose frames keep their class tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import IMAGE, PATCH, VIDEO, clip, text
from tests.families.scenes import Image, Prompt, Video

SIDE = 32
PATCHES = (SIDE // PATCH) ** 2
FRAMES = 4


class VideoLlava(Case):
    """One place for every patch; in clips one for every class token, too."""

    def config(self) -> Any:
        from transformers import VideoLlavaConfig

        return VideoLlavaConfig(
            vision_config=clip(SIDE),
            text_config=text("llama"),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_seq_length=PATCHES,
            video_seq_length=FRAMES * (PATCHES + 1),
        )

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * PATCHES

    def video_ids(self, video: Video) -> list[int]:
        return [VIDEO] * video.frames * (PATCHES + 1)

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        images = [scenes.pixels(image) for image in scenes.images(prompts)]
        clips = [scenes.pixels(video) for video in scenes.videos(prompts)]
        # the processor still gives the name that later models call deprecated
        call = {"pixel_values_images": torch.stack(images)} if images else {}
        return {**call, **({"pixel_values_videos": torch.stack(clips)} if clips else {})}


CASES = (
    VideoLlava(
        "video_llava",
        "VideoLlavaForConditionalGeneration",
        ((SIDE, SIDE), (SIDE, SIDE)),
        (FRAMES, SIDE, SIDE),
    ),
)
