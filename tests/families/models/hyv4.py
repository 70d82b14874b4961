"""Hy4: HunYuan-VL's tower, newlines behind rows of places, M-RoPE, two streams of every token.

Keys are chosen by indexers; layer 1 takes the choice of layer 0. Heads of the LLM have sinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import END, HEADS, IMAGE, PATCH, START, VIDEO, WIDTH, text, tower
from tests.families.scenes import Image, Prompt, Video

MERGE = 2
UNIT = PATCH * MERGE


@dataclass(frozen=True, eq=False)
class HyV4(Case):
    """A learned grid of 4x4 positions, resampled."""

    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 64), (48, 32))
    clip: tuple[int, int, int] | None = (3, 32, 48)

    def config(self) -> Any:
        from transformers import HYV4VLConfig

        own: dict[str, Any] = {
            "q_lora_rank": 12,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 10,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
            },
            "mlp_layer_types": ["dense", "sparse"] * 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": WIDTH // 2,
            "hc_mult": 2,
            "indexer_types": ["full", "shared", "full", "full"],
            # fewer tokens than any prompt has; of few heads, several might have a score of zero
            "index_topk": 8,
            "index_n_heads": 4 * HEADS,
            "index_head_dim": 12,
        }
        return HYV4VLConfig(
            vision_config=tower(
                "hy_v4_vl_vision",
                max_image_size=4 * PATCH,
                spatial_merge_size=MERGE,
                out_hidden_size=WIDTH,
            ),
            text_config=text("hy_v4_vl_text", **own),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        in_double()
        return super().create(dtype, attention)

    def functions(self, attention: str) -> dict[str, str]:
        """The LLM has eager attention only."""
        return {"": "eager", "text_config": "eager", "vision_config": attention}

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [START, *[IMAGE] * _places(image), END]

    def video_ids(self, video: Video) -> list[int]:
        return [START, *[VIDEO] * _places(video), END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}
        return call | scenes.packed(scenes.images(prompts), scenes.videos(prompts), _patches, _grid)

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """None: the model itself reads the mask for its positions in three axes."""
        return {}


def _grid(part: Image | Video) -> list[int]:
    frames = part.frames if isinstance(part, Video) else 1
    return [frames, part.height // PATCH, part.width // PATCH]


def _places(part: Image | Video) -> int:
    return _grid(part)[0] * (part.height // UNIT) * (part.width // UNIT + 1)


def _patches(part: Image | Video) -> Tensor:
    """Random patches `[P, d]`: what they show of the picture means nothing here."""
    frames, height, width = _grid(part)
    return scenes.pixels(Video(frames * height * width, PATCH, PATCH, part.seed)).flatten(1)


def in_double() -> None:
    """The library mixes and routes in float32, by products whose rounding depends on other rows."""
    from transformers.models.hy_v4_vl import modeling_hy_v4_vl as modeling

    def wide(states: Tensor) -> Tensor:
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def mixed(module: Any, streams: Tensor, weight: Tensor) -> Tensor:
        flat = wide(streams.flatten(2))
        norm = torch.rsqrt(flat.square().mean(-1, keepdim=True) + module.input_norm.eps)
        return nn.functional.linear(flat, wide(weight)) * norm

    def connected(module: Any, hidden_streams: Tensor) -> tuple[Tensor, Tensor]:
        first, second = mixed(module, hidden_streams, module.fn).split(module.hc_mult, dim=-1)
        scales, bases = module.scale.unbind(0), module.base.split(module.hc_mult, dim=-1)
        pre = torch.sigmoid(first * scales[0] + bases[0]) + module.hc_eps
        post = torch.sigmoid(second * scales[1] + bases[1])
        out = torch.sum(pre.unsqueeze(-1) * hidden_streams, dim=2)
        post = module.hc_post_magnitude * post + module.hc_eps
        return post, out.to(hidden_streams.dtype)

    def united(module: Any, x: Tensor) -> Tensor:
        logits = mixed(module, x, module.hc_fn) * module.hc_scale + module.hc_base
        pre = torch.sigmoid(logits) + module.eps
        return (pre.unsqueeze(-1) * x).sum(dim=2).to(x.dtype)

    def routed(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = wide(hidden_states.view(-1, router.hidden_dim))
        logits = nn.functional.linear(rows, wide(router.weight))
        scores = logits.sigmoid()
        chosen = (scores + router.e_score_correction_bias).topk(router.top_k, sorted=False).indices
        weights = scores.gather(1, chosen)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return logits, weights * router.routed_scaling_factor, chosen

    modeling.HYV4VLHyperConnection.forward = connected
    modeling.HYV4VLHyperHead.forward = united
    modeling.HYV4VLTopkRouter.forward = routed


CASES = (HyV4("hy_v4_vl", "HYV4VLForConditionalGeneration"),)
