"""EXAONE 4.5: Qwen2.5-VL's tower with grouped heads, an LLM that counts positions once.

Its layers norm what their attention puts out instead of what it is given; those without a window
don't rotate.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.families.case import Case
from tests.families.models.common import IMAGE, VIDEO, WIDTH, text
from tests.families.models.qwen import GROUP, Qwen2VL
from tests.families.scenes import Prompt

WINDOW = 12
GROUPED = 2


class Exaone45(Qwen2VL):
    """Windows of 2x2 groups, blocks 1 and 3 with attention over whole frames."""

    def config(self) -> Any:
        from transformers import Exaone4_5_Config

        vision = self.vision(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            out_hidden_size=WIDTH,
            num_key_value_heads=GROUPED,
            window_size=2 * GROUP,
            fullatt_block_indexes=[1, 3],
        )
        types = ["sliding_attention", "full_attention"] * 2
        return Exaone4_5_Config(
            text_config=text("exaone4", sliding_window=WINDOW, layer_types=types),
            vision_config=vision,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        call = super().extras(ids, prompts)
        del call["mm_token_type_ids"]
        return call

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Given: left to itself the model counts padding, in `generate`, too."""
        return Case.positions(self, inputs)


CASES = (Exaone45("exaone4_5", "Exaone4_5_ForConditionalGeneration"),)
