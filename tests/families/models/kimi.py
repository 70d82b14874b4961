"""Kimi K2.5: 2x2 patches a place, averaged over the frames of a clip; an LLM with latent keys."""

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
    library,
    text,
    words,
)
from tests.families.scenes import Image, Prompt, Video

MERGE, FRAMES = 2, 2
"""Rows and columns of patches of a place, and the most frames that become one."""
UNIT = MERGE * PATCH


@dataclass(frozen=True, eq=False)
class Kimi(Case):
    """A clip is written chunk by chunk, with times in front; experts behind a dense layer."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 64), (48, 32))
    clip: tuple[int, int, int] | None = (4, 32, 48)

    def config(self) -> Any:
        from transformers import Kimi_K25Config

        return Kimi_K25Config(
            vision_config={
                "patch_size": PATCH,
                "pos_emb_height": 4,
                "pos_emb_width": 4,
                "pos_emb_time": FRAMES,
                "num_attention_heads": HEADS,
                "num_hidden_layers": BLOCKS,
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "merge_kernel_size": (MERGE, MERGE),
            },
            text_config=text(
                "deepseek_v3",
                num_key_value_heads=HEADS,
                q_lora_rank=12,
                kv_lora_rank=16,
                qk_nope_head_dim=8,
                qk_rope_head_dim=4,
                v_head_dim=10,
                n_routed_experts=4,
                num_experts_per_tok=2,
                n_group=1,
                topk_group=1,
                first_k_dense_replace=1,
                moe_intermediate_size=WIDTH // 2,
            ),
            projection_hidden_size=WIDTH,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=START,
            vision_end_token_id=END,
        )

    def missing(self, scene: str = "one") -> str | None:
        reason = super().missing(scene)
        if reason is None and scene in ("video", "mixed") and library() < (5, 24):
            return "before transformers 5.24 the model expects features of every frame of a clip"
        return reason

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        in_double()
        return super().create(dtype, attention)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * _places(image), END]

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for number, chunk in enumerate(chunks(video)):
            row += [*words(2, 100 + number), START, *[VIDEO] * _places(chunk), END]
        return row

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        return scenes.packed(
            scenes.images(prompts),
            [chunk for clip in scenes.videos(prompts) for chunk in chunks(clip)],
            _patches,
            _grid,
        )


def chunks(clip: Video) -> list[Video]:
    """What the model is given for clips of a clip, of the most frames each."""
    starts = range(0, clip.frames, FRAMES)
    return [
        Video(min(FRAMES, clip.frames - start), clip.height, clip.width, 100 * clip.seed + start)
        for start in starts
    ]


def _grid(part: Image | Video) -> list[int]:
    frames = part.frames if isinstance(part, Video) else 1
    return [frames, part.height // PATCH, part.width // PATCH]


def _places(part: Image | Video) -> int:
    return (part.height // UNIT) * (part.width // UNIT)


def _patches(part: Image | Video) -> Tensor:
    """Random patches: their order within the picture means nothing here."""
    frames, height, width = _grid(part)
    return scenes.pixels(Video(frames * height * width, PATCH, PATCH, part.seed))


def in_double() -> None:
    """The library routes in float32, by products whose rounding depends on the other rows."""
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling

    def routed(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        rows = hidden_states.view(-1, router.hidden_dim).to(wide)
        logits = nn.functional.linear(rows, router.weight.to(wide))
        scores = logits.sigmoid()
        chosen = (scores + router.e_score_correction_bias).topk(router.top_k, sorted=False).indices
        weights = scores.gather(1, chosen)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return logits, (weights * router.routed_scaling_factor).to(hidden_states.dtype), chosen

    modeling.DeepseekV3TopkRouter.forward = routed


CASES = (Kimi("kimi_k25", "Kimi_K25ForConditionalGeneration"),)
