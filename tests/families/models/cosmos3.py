"""Cosmos 3: Qwen3-VL's parts under another core, and a small one with a tower of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tests.families import scenes
from tests.families.models.common import HEADS, PATCH, WIDTH, text, tower
from tests.families.models.qwen import MERGE, ROTARY, Qwen3VL
from tests.families.scenes import Image, Video

UNIT = MERGE * PATCH


class Cosmos3Omni(Qwen3VL):
    """Tower and LLM are Qwen3-VL's."""

    def config(self) -> Any:
        from transformers import Cosmos3OmniConfig

        own = super().config()
        return Cosmos3OmniConfig(
            text_config=own.text_config, vision_config=own.vision_config, **self.tokens()
        )


@dataclass(frozen=True, eq=False)
class Cosmos3Edge(Qwen3VL):
    """A tower with learned positions, every frame by itself; what makes units stands behind it."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 64), (48, 32))
    clip: tuple[int, int, int] | None = (3, 32, 48)

    def config(self) -> Any:
        from transformers import Cosmos3EdgeConfig

        own = {"head_dim": WIDTH // HEADS, "rope_parameters": dict(ROTARY)}
        return Cosmos3EdgeConfig(
            text_config=text("cosmos3_edge_text", **own),
            vision_config=tower("cosmos3_edge_vision", num_patches=64, spatial_merge_size=MERGE),
            projector_hidden_size=WIDTH,
            **self.tokens(),
        )

    def grid(self, part: Image | Video) -> list[int]:
        frames = part.frames if isinstance(part, Video) else 1
        return [frames, part.height // PATCH, part.width // PATCH]

    def _groups(self, part: Image | Video) -> int:
        return (part.height // UNIT) * (part.width // UNIT)

    def _rows(self, part: Image | Video) -> Tensor:
        frames, height, width = self.grid(part)
        rows = Video(frames * height * width, PATCH, PATCH, part.seed)
        return scenes.pixels(rows).flatten(1)


CASES = (
    Cosmos3Omni("cosmos3_omni", "Cosmos3OmniForConditionalGeneration"),
    Cosmos3Edge("cosmos3_edge", "Cosmos3EdgeForConditionalGeneration"),
)
