"""MiniMax M3: 2x2 patches a place behind the tower, clips in chunks; layers that choose keys."""

from __future__ import annotations

import inspect
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
    LAYERS,
    PATCH,
    START,
    VIDEO,
    WIDTH,
    text,
    words,
)
from tests.families.scenes import Image, Prompt, Video

MERGE, TEMPORAL, CHUNK = 2, 2, 2
"""Rows and columns of patches of a place, frames that it spans, and the longest chunk in places."""
UNIT = MERGE * PATCH


@dataclass(frozen=True, eq=False)
class MiniMax(Case):
    """Every other layer has experts; blocks of keys are longer than the prompts, as is usual.

    Attributes:
        block: keys of a block.
        most: blocks that a query sees.
        sparse: the first layer that chooses blocks of keys.
    """

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 64), (48, 32))
    clip: tuple[int, int, int] | None = (6, 32, 48)
    block: int = 128
    most: int = 16
    sparse: int = LAYERS - 1

    def config(self) -> Any:
        from transformers import MiniMaxM3VLConfig

        kinds = ["full_attention"] * self.sparse
        kinds += ["minimax_m3_sparse"] * (LAYERS - self.sparse)
        return MiniMaxM3VLConfig(
            vision_config={
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "num_hidden_layers": BLOCKS,
                "num_attention_heads": HEADS,
                "patch_size": PATCH,
                "temporal_patch_size": TEMPORAL,
                "spatial_merge_size": MERGE,
            },
            text_config=text(
                "minimax_m3_vl_text",
                head_dim=WIDTH // HEADS,
                rotary_dim=WIDTH // HEADS // 2,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 0.5,
                },
                dense_intermediate_size=2 * WIDTH,
                intermediate_size=WIDTH // 2,
                shared_intermediate_size=WIDTH // 2,
                num_local_experts=4,
                num_experts_per_tok=2,
                mlp_layer_types=["dense", "sparse"] * (LAYERS // 2),
                layer_types=kinds,
                index_n_heads=2,
                index_head_dim=WIDTH // HEADS,
                index_block_size=self.block,
                index_topk_blocks=self.most,
            ),
            projector_hidden_size=WIDTH,
            image_token_index=IMAGE,
            video_token_index=VIDEO,
        )

    def missing(self, scene: str = "one") -> str | None:
        reason = super().missing(scene)
        if reason is None:
            from transformers.models.minimax_m3_vl import modeling_minimax_m3_vl as modeling

            attend = modeling.MiniMaxM3VLVisionAttention.forward
            if "cu_seqlens" not in inspect.signature(attend).parameters:
                reason = "in this release the pictures of a call see one another in the tower"
        return reason

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        in_double()
        return super().create(dtype, attention)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * _places(image), END]

    def video_ids(self, video: Video) -> list[int]:
        row: list[int] = []
        for number in range(video.frames // TEMPORAL):
            row += [*words(2, 100 + number), START, *[VIDEO] * _places(video), END]
        return row

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        return scenes.packed(
            scenes.images(prompts),
            [part for clip in scenes.videos(prompts) for part in chunks(clip)],
            _patches,
            _grid,
        )


def chunks(clip: Video) -> list[Video]:
    """What the model is given for clips of a clip."""
    longest = CHUNK * TEMPORAL
    return [
        Video(min(longest, clip.frames - start), clip.height, clip.width, 100 * clip.seed + start)
        for start in range(0, clip.frames, longest)
    ]


def _grid(part: Image | Video) -> list[int]:
    times = part.frames // TEMPORAL if isinstance(part, Video) else 1
    return [times, part.height // PATCH, part.width // PATCH]


def _places(part: Image | Video) -> int:
    return (part.height // UNIT) * (part.width // UNIT)


def _patches(part: Image | Video) -> Tensor:
    """Random patches: their order within the picture means nothing here."""
    times, height, width = _grid(part)
    rows = Video(times * height * width, TEMPORAL * PATCH, PATCH, part.seed)
    return scenes.pixels(rows).flatten(1)


def in_double() -> None:
    """The library routes in float32, by products whose rounding depends on the other rows."""
    from transformers.models.minimax_m3_vl import modeling_minimax_m3_vl as modeling

    def routed(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = hidden_states.reshape(-1, router.hidden_dim)
        logits = nn.functional.linear(rows, router.weight)
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        chosen = (scores + router.e_score_correction_bias).topk(router.top_k, sorted=False).indices
        weights = scores.gather(1, chosen)
        return logits, weights / weights.sum(dim=-1, keepdim=True), chosen

    modeling.MiniMaxM3VLTopKRouter.forward = routed


CASES = (MiniMax("minimax_m3_vl", "MiniMaxM3SparseForConditionalGeneration"),)
