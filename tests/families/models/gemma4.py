"""Gemma 4: pictures of any shape as patches with positions, padded to the longest."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    END,
    HEADS,
    IMAGE,
    PATCH,
    START,
    VIDEO,
    VOCABULARY,
    WIDTH,
    library,
    text,
    tower,
    words,
)
from tests.families.scenes import Image, Prompt, Video

POOL, WINDOW = 2, 12
UNIT = PATCH * POOL
AUDIO = 20


@dataclass(frozen=True, eq=False)
class Gemma4(Case):
    """Sliding and full layers in turn.

    Attributes:
        per_layer: width of the inputs that every layer gets of its own; 0 for none.
        shared: how many of the last layers read the keys and values of earlier ones.
        both_ways: whether the patches of a picture see one another in the language model.
    """

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 32), (32, 64))
    clip: tuple[int, int, int] | None = (2, 32, 48)
    per_layer: int = 0
    shared: int = 0
    both_ways: bool = True

    def config(self) -> Any:
        from transformers import Gemma4Config

        language = text(
            "gemma4_text",
            head_dim=WIDTH // HEADS,
            global_head_dim=2 * WIDTH // HEADS,
            layer_types=["sliding_attention", "full_attention"] * 2,
            sliding_window=WINDOW,
            hidden_size_per_layer_input=self.per_layer,
            vocab_size_per_layer_input=VOCABULARY,
            num_kv_shared_layers=self.shared,
            use_bidirectional_attention="vision" if self.both_ways else None,
        )
        return Gemma4Config(
            vision_config=tower(
                num_key_value_heads=HEADS,
                head_dim=WIDTH // HEADS,
                pooling_kernel_size=POOL,
                position_embedding_size=64,
                standardize=True,
            ),
            text_config=language,
            audio_config=None,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            audio_token_id=AUDIO,
            boi_token_id=START,
            eoi_token_id=END,
        )

    def missing(self, scene: str = "one") -> str | None:
        """Clips need 5.18 or less, or 5.23 or more: between, core drops their counts of frames."""
        if scene in ("video", "mixed") and (5, 19) <= library() < (5, 23):
            return "transformers 5.19 to 5.22 can't run a forward with clips"
        return super().missing(scene)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * _units(image), END]

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for frame in range(video.frames):
            row += [*words(2, 100 + frame), START, *[VIDEO] * _units(video), END]
        return row

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}
        images, clips = scenes.images(prompts), scenes.videos(prompts)
        if images:
            call["pixel_values"], call["image_position_ids"] = _padded(images)
        if clips:
            frames = [
                Image(clip.height, clip.width, 10 * clip.seed + number)
                for clip in clips
                for number in range(clip.frames)
            ]
            pixels, positions = _padded(frames)
            if self._frames_are_counted():
                counts = torch.tensor([clip.frames for clip in clips])
                call["num_frames_per_video"] = counts
            else:
                pixels = pixels.reshape(len(clips), -1, *pixels.shape[1:])
                positions = positions.reshape(len(clips), -1, *positions.shape[1:])
            call["pixel_values_videos"], call["video_position_ids"] = pixels, positions
        return call

    def _frames_are_counted(self) -> bool:
        """Later versions take the frames of all clips as rows, and their counts."""
        from transformers import Gemma4Model

        names = inspect.signature(Gemma4Model.get_video_features).parameters
        return "num_frames_per_video" in names


def _units(part: Image | Video) -> int:
    return (part.height // UNIT) * (part.width // UNIT)


def _padded(images: list[Image]) -> tuple[Tensor, Tensor]:
    """Patches `[n, P, 3 p p]` in [0, 1], and places (x, y) `[n, P, 2]`, -1 where padded."""
    grids = [(image.height // PATCH, image.width // PATCH) for image in images]
    longest = max(high * wide for high, wide in grids)
    pixels = torch.zeros(len(images), longest, 3 * PATCH * PATCH, dtype=torch.float64)
    positions = torch.full((len(images), longest, 2), -1)
    for number, (image, (high, wide)) in enumerate(zip(images, grids, strict=True)):
        flat = scenes.pixels(image).sigmoid().reshape(high * wide, -1)
        pixels[number, : high * wide] = flat
        places = [[x, y] for y in range(high) for x in range(wide)]
        positions[number, : high * wide] = torch.tensor(places)
    return pixels, positions


MODEL = "Gemma4ForConditionalGeneration"
CASES = (
    Gemma4("gemma4", MODEL),
    Gemma4("gemma4-shared", MODEL, per_layer=8, shared=2, both_ways=False),
)
