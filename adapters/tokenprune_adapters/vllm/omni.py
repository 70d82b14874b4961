"""The thinker of Qwen2.5-Omni in vLLM with a plan in the tower or behind; imported when needed.

Its tower is that of Qwen2.5-VL, and sound stands in the prompt as text does: one position a token.
Clips aren't served, whose sound may stand between their frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from vllm.model_executor.models.qwen2_5_omni_thinker import (
    Qwen2_5OmniThinkerDummyInputsBuilder,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2_5OmniThinkerMultiModalProcessor,
    Qwen2_5OmniThinkerProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.grids import ServedGrids
from tokenprune_adapters.vllm.qwen_others import WholePictures
from tokenprune_adapters.vllm.qwen_vl import PlannedGrids, PlannedPrompt, served_grids


class PlannedOmniInfo(PlannedGrids, Qwen2_5OmniThinkerProcessingInfo):
    """Counts of pictures and sounds."""

    @cached_property
    def served(self) -> ServedGrids:
        """The plan on this model, whose config is a part of the checkpoint's."""
        return served_grids(self.ctx.model_config.hf_config)

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """What is left of the largest picture, and the tokens of the longest sound."""
        whole = Qwen2_5OmniThinkerProcessingInfo.get_mm_max_tokens_per_item(
            self, seq_len, mm_counts
        )
        return {**whole, **super().get_mm_max_tokens_per_item(seq_len, mm_counts)}


class PlannedOmniProcessor(PlannedPrompt, Qwen2_5OmniThinkerMultiModalProcessor):
    """The thinker's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedOmniProcessor, info=PlannedOmniInfo, dummy_inputs=Qwen2_5OmniThinkerDummyInputsBuilder
)
class TokenpruneQwen2_5OmniForConditionalGeneration(
    WholePictures, Qwen2_5OmniThinkerForConditionalGeneration
):
    """vLLM's Qwen2.5-Omni, whose features are what the plan leaves."""

    @cached_property
    def served(self) -> ServedGrids:
        """The plan on this model, whose config is a part of the checkpoint's."""
        return served_grids(self.vllm_config.model_config.hf_config)

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[Tensor, int]:
        """As of `PlannedItems`; sound is numbered as text."""
        shown = [one for one in mm_features if one.modality != "audio"]
        return super().get_mrope_input_positions(input_tokens, shown)

    def recompute_mrope_positions(
        self,
        input_ids: Sequence[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """As of `PlannedItems`; sound brings no positions."""
        width = self.config.text_config.hidden_size
        heard = [one.shape[-1] == width for one in multimodal_embeddings]
        shown = [one for one, sound in zip(multimodal_embeddings, heard, strict=True) if not sound]
        bare, positions, delta = super().recompute_mrope_positions(
            input_ids, shown, mrope_positions, num_computed_tokens
        )
        rest = iter(bare)
        made = [
            one if sound else next(rest)
            for one, sound in zip(multimodal_embeddings, heard, strict=True)
        ]
        return made, positions, delta


class TokenpruneQwen2_5OmniModel(TokenpruneQwen2_5OmniForConditionalGeneration):
    """The same under the name that released checkpoints have."""
