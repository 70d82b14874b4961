"""ERNIE 4.5 VL: experts for text and for pictures, two frames of a clip a token, M-RoPE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import (
    BLOCKS,
    END,
    HEADS,
    IMAGE,
    PATCH,
    START,
    VIDEO,
    WIDTH,
    text,
)
from tests.families.scenes import Image, Prompt, Video

MERGE, FRAMES = 2, 2
CLIP_START, CLIP_END = 9, 10
UNIT = PATCH * MERGE
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


@dataclass(frozen=True, eq=False)
class Ernie45VL(Case):
    """The marks around pictures go to the pictures' experts, too."""

    clip: tuple[int, int, int] | None = (4, 32, 48)

    def config(self) -> Any:
        from transformers import Ernie4_5_VLMoeConfig

        return Ernie4_5_VLMoeConfig(
            vision_config={
                "depth": BLOCKS,
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "num_heads": HEADS,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "temporal_merge_size": FRAMES,
            },
            text_config=text(
                "ernie4_5_vl_moe_text",
                rope_parameters=dict(ROTARY),
                moe_num_experts=4,
                moe_k=2,
                moe_num_shared_experts=1,
                moe_intermediate_size=[WIDTH // 2, WIDTH // 4],
            ),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_start_token_id=START,
            image_end_token_id=END,
            video_start_token_id=CLIP_START,
            video_end_token_id=CLIP_END,
        )

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        in_double()
        return super().create(dtype, attention)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * _places(image), END]

    def video_ids(self, video: Video) -> list[int]:
        return [CLIP_START, *[VIDEO] * (video.frames // FRAMES * _places(video)), CLIP_END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        kinds = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
        marks = ((ids == START) | (ids == END)).long()
        marks += 2 * ((ids == CLIP_START) | (ids == CLIP_END)).long()
        call = {"mm_token_type_ids": kinds, "moe_mm_token_type_ids": kinds + marks}
        return call | scenes.packed(scenes.images(prompts), scenes.videos(prompts), _rows, _grid)

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """None: the model itself reads the mask for its positions in three axes."""
        return {}


def _grid(part: Image | Video) -> list[int]:
    frames = part.frames if isinstance(part, Video) else 1
    return [frames, part.height // PATCH, part.width // PATCH]


def _places(part: Image | Video) -> int:
    return (part.height // UNIT) * (part.width // UNIT)


def _rows(part: Image | Video) -> Tensor:
    """Rows of random patches: their order within the picture means nothing here."""
    frames, height, width = _grid(part)
    row = Video(frames * height * width, 1, PATCH * PATCH, part.seed)
    return scenes.pixels(row).flatten(1)


def in_double() -> None:
    """The library routes in float32, by products whose rounding depends on the other rows."""
    from transformers.models.ernie4_5_vl_moe import modeling_ernie4_5_vl_moe as library

    def routed(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        logits = nn.functional.linear(hidden_states.to(wide), router.weight.to(wide))
        weights = logits.softmax(dim=1)
        chosen = router.moe_statics(weights).topk(router.top_k, dim=-1).indices
        own = weights.gather(-1, chosen)
        own = own / own.sum(dim=-1, keepdim=True).clamp(min=router.norm_min)
        return logits.float(), own.to(hidden_states.dtype), chosen

    library.Ernie4_5_VLMoeMoeTopKRouter.forward = routed


CASES = (
    Ernie45VL("ernie4_5_vl_moe", "Ernie4_5_VLMoeForConditionalGeneration", ((32, 64), (48, 32))),
)
