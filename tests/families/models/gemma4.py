"""Gemma 4: pictures of any shape as patches with positions, padded to the longest; sound."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BOS,
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
from tests.families.scenes import Image, Prompt, Text, Video

POOL, WINDOW = 2, 12
UNIT = PATCH * POOL
AUDIO, SAMPLES, HEARD = 20, 8, 4
"""Sound, samples of a token of it, and tokens of each prompt's sound."""


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
            call["pixel_values"], call["image_position_ids"] = self.padded(images)
        if clips:
            frames = [
                Image(clip.height, clip.width, 10 * clip.seed + number)
                for clip in clips
                for number in range(clip.frames)
            ]
            pixels, positions = self.padded(frames)
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
        import transformers

        model_class = getattr(transformers, self.model_class.replace(HEAD, "Model"))
        taken = inspect.signature(model_class.get_video_features).parameters
        return "num_frames_per_video" in taken

    def padded(self, images: list[Image]) -> tuple[Tensor, Tensor]:
        """Patches `[n, P, 3 p p]` in [0, 1], and places (x, y) `[n, P, 2]`, -1 where padded."""
        return _padded(images, PATCH)


@dataclass(frozen=True, eq=False)
class Unified(Gemma4):
    """No tower: the LLM is shown squares of pixels; every prompt begins with some sound.

    As in released models, no layers share keys, and the keys of full layers are their values.
    """

    heard: ClassVar[tuple[str, ...]] = ("input_features", "input_features_mask")

    def config(self) -> Any:
        from transformers import Gemma4UnifiedConfig

        language = text(
            "gemma4_unified_text",
            head_dim=WIDTH // HEADS,
            global_head_dim=2 * WIDTH // HEADS,
            num_global_key_value_heads=1,
            attention_k_eq_v=True,
            layer_types=["sliding_attention", "full_attention"] * 2,
            sliding_window=WINDOW,
        )
        return Gemma4UnifiedConfig(
            vision_config={
                "patch_size": PATCH,
                "pooling_kernel_size": POOL,
                "mm_embed_dim": WIDTH,
                "mm_posemb_size": 64,
                "output_proj_dims": WIDTH,
            },
            text_config=language,
            audio_config={"audio_embed_dim": SAMPLES},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            audio_token_id=AUDIO,
            boi_token_id=START,
            eoi_token_id=END,
            boa_token_id=AUDIO + 1,
            eoa_token_index=AUDIO + 2,
        )

    def sound(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["input_ids"] == AUDIO

    def ids(self, prompt: Prompt) -> list[int]:
        return [BOS, AUDIO + 1, *[AUDIO] * HEARD, AUDIO + 2, *super().ids(prompt)[1:]]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        seeds = [sum(part.start for part in row if isinstance(part, Text)) for row in prompts]
        heard = [scenes.pixels(Video(HEARD, 1, SAMPLES, seed))[:, 0, 0] for seed in seeds]
        call["mm_token_type_ids"] += 3 * (ids == AUDIO).long()
        call["input_features"] = torch.stack(heard)
        call["input_features_mask"] = torch.ones(call["input_features"].shape[:2]).bool()
        return call

    def padded(self, images: list[Image]) -> tuple[Tensor, Tensor]:
        return _padded(images, UNIT)


def _units(part: Image | Video) -> int:
    return (part.height // UNIT) * (part.width // UNIT)


def _padded(images: list[Image], side: int) -> tuple[Tensor, Tensor]:
    """What a model is shown of squares of `side` pixels: their colours in [0, 1], and places."""
    grids = [(image.height // side, image.width // side) for image in images]
    longest = max(high * wide for high, wide in grids)
    pixels = torch.zeros(len(images), longest, 3 * side * side, dtype=torch.float64)
    positions = torch.full((len(images), longest, 2), -1)
    for number, (image, (high, wide)) in enumerate(zip(images, grids, strict=True)):
        flat = scenes.pixels(image).sigmoid().reshape(high * wide, -1)
        pixels[number, : high * wide] = flat
        places = [[x, y] for y in range(high) for x in range(wide)]
        positions[number, : high * wide] = torch.tensor(places)
    return pixels, positions


HEAD = "ForConditionalGeneration"
CASES = (
    Gemma4("gemma4", f"Gemma4{HEAD}"),
    Gemma4("gemma4-shared", f"Gemma4{HEAD}", per_layer=8, shared=2, both_ways=False),
    Unified("gemma4_unified", f"Gemma4Unified{HEAD}"),
)
