"""Cohere Compass: Qwen3-VL's tower and DeepStack in front of Cohere's layers, M-RoPE.

Layers with full attention don't rotate; attention and MLP stand side by side.
"""

from __future__ import annotations

from typing import Any

from tests.families.models.cohere import language
from tests.families.models.qwen import ROTARY, Qwen3VL

SECTIONS = [2, 1, 1]
"""Channels that turn by time, height and width; earlier releases divide heads otherwise."""


class Compass(Qwen3VL):
    """Two DeepStack levels, one behind a layer with a window and one behind a layer without."""

    def config(self) -> Any:
        from transformers import CohereCompassConfig

        turning = {**ROTARY, "mrope_section": SECTIONS}
        own = {"rope_parameters": {"sliding_attention": turning, "full_attention": None}}
        return CohereCompassConfig(
            text_config={**language(), **own, "model_type": "cohere_compass_text"},
            vision_config=self.later_vision(deepstack_visual_indexes=[0, 2]),
            **self.tokens(),
        )


CASES = (Compass("cohere_compass", "CohereCompassForConditionalGeneration"),)
