"""Step 3.7: crops of wide pictures in front of the whole, convolutions behind the tower's blocks.

Every other layer of the LLM has a window, rotary rows of its own and more heads; heads have gates.
"""

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
    START,
    WIDTH,
    text,
)
from tests.families.scenes import Image, Prompt

PATCH, STRIDE = 4, 4
WHOLE, CROP = 48, 32
"""Sides of what the tower sees of a picture, and of a crop."""
WINDOW = 12
CROP_START, CROP_END, NEWLINE = 10, 11, 12


@dataclass(frozen=True, eq=False)
class Step3p7(Case):
    """Pictures as wide as two of them have two crops; experts in every other layer."""

    def config(self) -> Any:
        from transformers import Step3p7Config

        types = ["sliding_attention", "full_attention"] * 2
        language = text(
            "step3p5",
            head_dim=WIDTH // HEADS,
            layer_types=types,
            sliding_window=WINDOW,
            num_sliding_attention_heads=2 * HEADS,
            rope_theta=[1000.0, 10000.0] * 2,
            partial_rotary_factors=[1.0, 0.5] * 2,
            mlp_layer_types=["dense", "sparse"] * 2,
            n_routed_experts=4,
            num_experts_per_tok=2,
            share_expert_dim=WIDTH // 2,
            moe_intermediate_size=WIDTH // 2,
            swiglu_limits=[None, 2.0] * 2,
        )
        vision = {
            "hidden_size": WIDTH,
            "mlp_ratio": 2.0,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": HEADS,
            "patch_size": PATCH,
            "image_size": WHOLE,
        }
        return Step3p7Config(vision_config=vision, text_config=language, image_token_id=IMAGE)

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        in_double()
        return super().create(dtype, attention)

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        crop = [CROP_START, *[IMAGE] * (CROP // PATCH // STRIDE) ** 2, CROP_END]
        return [*crops(image) * crop, START, *[IMAGE] * (WHOLE // PATCH // STRIDE) ** 2, END]

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        images = scenes.images(prompts)
        if not images:
            return {}
        seen = [scenes.pixels(Image(WHOLE, WHOLE, image.seed)) for image in images]
        cut = [
            scenes.pixels(Image(CROP, CROP, 10 * image.seed + number))
            for image in images
            for number in range(crops(image))
        ]
        counts = torch.tensor([crops(image) for image in images])
        call = {"pixel_values": torch.stack(seen), "num_local_patches": counts}
        return {**call, "pixel_values_local": torch.stack(cut)} if cut else call


def crops(image: Image) -> int:
    """How many crops the tower sees of a picture, besides the whole."""
    return image.width // WHOLE if image.width > WHOLE else 0


def in_double() -> None:
    """The library routes in float32."""
    from transformers.models.step3p7 import modeling_step3p7 as modeling

    def routed(router: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        rows = hidden_states.reshape(-1, router.hidden_dim).to(wide)
        logits = nn.functional.linear(rows, router.weight.to(wide))
        scores = logits.sigmoid()
        chosen = (scores + router.e_score_correction_bias).topk(router.top_k, sorted=False).indices
        weights = scores.gather(1, chosen)
        return logits, weights / weights.sum(dim=-1, keepdim=True), chosen

    modeling.Step3p7TopKRouter.forward = routed


SIZES = ((WHOLE, WHOLE), (WHOLE, 2 * WHOLE))
CASES = (Step3p7("step3p7", "Step3p7ForConditionalGeneration", SIZES),)
