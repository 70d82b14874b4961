"""LLaVA-NeXT, LLaVA-NeXT-Video, LLaVA-OneVision: tiles, padding cut away, newlines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import IMAGE, PATCH, VIDEO, clip, library, siglip, text
from tests.families.scenes import Image, Prompt, Video

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class LlavaNext(Case):
    """A base tile, the tiles of the fitting canvas, and a newline behind every row of patches."""

    side: int = 32

    @property
    def pinpoints(self) -> list[list[int]]:
        """Canvases (height, width) that a picture may be laid on."""
        return [[self.side, 2 * self.side], [2 * self.side, self.side], [2 * self.side] * 2]

    @property
    def patches(self) -> int:
        """Patches along a tile's side."""
        return self.side // PATCH

    def config(self) -> Any:
        from transformers import LlavaNextConfig

        return LlavaNextConfig(
            vision_config=clip(self.side),
            text_config=text("llama"),
            image_token_index=IMAGE,
            image_grid_pinpoints=self.pinpoints,
        )

    def tiles(self, image: Image) -> Grid:
        """Tiles (high, wide) of the canvas that wastes least of the picture."""
        from transformers.image_processing_utils import select_best_resolution

        best = select_best_resolution((image.height, image.width), self.pinpoints)
        return best[0] // self.side, best[1] // self.side

    def shown(self, image: Image) -> Grid:
        """Patches (high, wide) of the canvas that show the picture, not its padding."""
        high, wide = (count * self.patches for count in self.tiles(image))
        if image.width / image.height > wide / high:
            return high - 2 * ((high - image.height * wide // image.width) // 2), wide
        return high, wide - 2 * ((wide - image.width * high // image.height) // 2)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        high, wide = self.shown(image)
        return [IMAGE] * (self.patches**2 + high * (wide + 1))

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        images = scenes.images(prompts)
        call: dict[str, Tensor] = {}
        if images:
            stacks = [self._stack(image) for image in images]
            padded = torch.zeros(len(images), max(map(len, stacks)), *stacks[0].shape[1:])
            call["pixel_values"] = padded.double()
            for number, stack in enumerate(stacks):
                call["pixel_values"][number, : len(stack)] = stack
            call["image_sizes"] = torch.tensor([[image.height, image.width] for image in images])
        return call

    def _stack(self, image: Image) -> Tensor:
        count = 1 + math.prod(self.tiles(image))
        return scenes.pixels(Video(count, self.side, self.side, image.seed))


@dataclass(frozen=True, eq=False)
class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT whose clips lose 2x2 neighbours to their mean, in front of the projector."""

    def config(self) -> Any:
        from transformers import LlavaNextVideoConfig

        return LlavaNextVideoConfig(
            vision_config=clip(self.side),
            text_config=text("llama"),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=self.pinpoints,
            spatial_pool_mode="average",
            spatial_pool_stride=2,
        )

    def video_ids(self, video: Video) -> list[int]:
        return [VIDEO] * video.frames * (self.patches // 2) ** 2

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        clips = [scenes.pixels(video) for video in scenes.videos(prompts)]
        return {**call, **({"pixel_values_videos": torch.stack(clips)} if clips else {})}


@dataclass(frozen=True, eq=False)
class LlavaOnevision(LlavaNextVideo):
    """SigLIP tiles; a stitched map of more than `most` tiles is resized, as are clips' frames.

    An odd number of patches along a side makes the places of a clip overlap, as in the real model.
    """

    side: int = 40
    most: int = 9

    def config(self) -> Any:
        from transformers import LlavaOnevisionConfig

        return LlavaOnevisionConfig(
            vision_config=siglip(self.side),
            text_config=text("qwen2"),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=self.pinpoints,
            vision_aspect_ratio=f"anyres_max_{self.most}",
        )

    def shown(self, image: Image) -> Grid:
        high, wide = super().shown(image)
        ratio = math.sqrt(high * wide / (self.most * self.patches**2))
        return (int(high // ratio), int(wide // ratio)) if ratio > 1.1 else (high, wide)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        if len(scenes.images([prompt])) > 1:
            # several pictures of one prompt are not tiled; each gets one newline
            return [IMAGE] * (self.patches**2 + 1)
        return super().image_ids(image, prompt)

    def video_ids(self, video: Video) -> list[int]:
        return [VIDEO] * (video.frames * math.ceil(self.patches / 2) ** 2 + 1)

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        if "pixel_values" in call:
            counts = [len(scenes.images([prompt])) for prompt in prompts]
            call["batch_num_images"] = torch.tensor(counts)
        return call

    def added(self, inputs: dict[str, Tensor]) -> int:
        """Before 5.18 the newline of a clip was added in forward."""
        return len(inputs.get("pixel_values_videos", ())) if library() < (5, 18) else 0


ONEVISION = "LlavaOnevisionForConditionalGeneration"
CASES = (
    LlavaNext("llava_next", "LlavaNextForConditionalGeneration", ((32, 30), (40, 60))),
    LlavaNextVideo(
        "llava_next_video",
        "LlavaNextVideoForConditionalGeneration",
        ((32, 30), (40, 60)),
        (3, 32, 32),
    ),
    LlavaOnevision("llava_onevision", ONEVISION, ((40, 36), (50, 76)), (3, 40, 40)),
    LlavaOnevision("llava_onevision-resized", ONEVISION, ((70, 76), (60, 76)), (3, 40, 40), most=1),
)
