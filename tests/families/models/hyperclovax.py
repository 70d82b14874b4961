"""HyperCLOVA X Vision 2: Qwen2.5-VL's tower, a projector behind its merger, positions in a line.

Its LLM scales embeddings, attention and what layers add, and norms the latter.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.families.case import Case
from tests.families.models.common import IMAGE, VIDEO, WIDTH, text
from tests.families.models.qwen import GROUP, Qwen2VL
from tests.families.scenes import Prompt

MERGED = WIDTH + 8
"""Channels of what the tower makes of a unit."""
SCALES = {
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.5,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.5,
}


class HyperClovaX(Qwen2VL):
    """Windows of 2x2 groups, blocks 1 and 3 with attention over whole frames."""

    def config(self) -> Any:
        from transformers import HyperCLOVAXVisionV2Config

        vision = self.vision(
            model_type="qwen2_5_vl_vision",
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            out_hidden_size=MERGED,
            window_size=2 * GROUP,
            fullatt_block_indexes=[1, 3],
        )
        return HyperCLOVAXVisionV2Config(
            text_config=text("hyperclovax", use_post_norm=True, **SCALES),
            vision_config=vision,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            tie_word_embeddings=False,
        )

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        del call["mm_token_type_ids"]
        return call

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Given: left to itself the model counts padding, in `generate`, too."""
        return Case.positions(self, inputs)


CASES = (HyperClovaX("hyperclovax_vision_v2", "HyperCLOVAXVisionV2ForConditionalGeneration"),)
