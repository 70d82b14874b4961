"""Thinkers of Qwen2.5- and Qwen3-Omni in vLLM, a plan in the tower or behind; imported when needed.

Their towers are those of Qwen2.5-VL and Qwen3-VL, and sound stands in the prompt as text does: one
position a token. Clips aren't served, whose sound may stand between their frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn
from vllm.model_executor.models.qwen2_5_omni_thinker import (
    Qwen2_5OmniThinkerDummyInputsBuilder,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2_5OmniThinkerMultiModalProcessor,
    Qwen2_5OmniThinkerProcessingInfo,
)
from vllm.model_executor.models.qwen3_omni_moe_thinker import (
    Qwen3OmniMoeThinkerDummyInputsBuilder,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerMultiModalProcessor,
    Qwen3OmniMoeThinkerProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.grids import ServedGrids
from tokenprune_adapters.vllm.packed_towers import VllmOmniAdapter, VllmPackedAdapter
from tokenprune_adapters.vllm.qwen_others import WholePictures
from tokenprune_adapters.vllm.qwen_vl import PlannedGrids, PlannedPrompt, served_grids


class PlannedThinker(PlannedGrids):
    """Counts of pictures and sounds; mixed into vLLM's own counting."""

    @cached_property
    def served(self) -> ServedGrids:
        """The plan on this model, whose config is a part of the checkpoint's."""
        info: Any = self
        return served_grids(info.ctx.model_config.hf_config)

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """What is left of the largest picture, and the tokens of the longest sound."""
        whole: Any = super(PlannedGrids, self)
        counted = whole.get_mm_max_tokens_per_item(seq_len, mm_counts)
        return {**counted, **super().get_mm_max_tokens_per_item(seq_len, mm_counts)}


class PlannedOmniInfo(PlannedThinker, Qwen2_5OmniThinkerProcessingInfo):
    """Qwen2.5-Omni's counts."""


class PlannedQwen3OmniInfo(PlannedThinker, Qwen3OmniMoeThinkerProcessingInfo):
    """Qwen3-Omni's counts."""


class PlannedOmniProcessor(PlannedPrompt, Qwen2_5OmniThinkerMultiModalProcessor):
    """Qwen2.5-Omni's prompts."""


class PlannedQwen3OmniProcessor(PlannedPrompt, Qwen3OmniMoeThinkerMultiModalProcessor):
    """Qwen3-Omni's prompts."""


class HeardItems(WholePictures):
    """Pictures beside sounds; mixed into vLLM's own models."""

    vllm_config: Any

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


@MULTIMODAL_REGISTRY.register_processor(
    PlannedOmniProcessor, info=PlannedOmniInfo, dummy_inputs=Qwen2_5OmniThinkerDummyInputsBuilder
)
class TokenpruneQwen2_5OmniForConditionalGeneration(
    HeardItems, Qwen2_5OmniThinkerForConditionalGeneration
):
    """vLLM's Qwen2.5-Omni, whose features are what the plan leaves."""


class TokenpruneQwen2_5OmniModel(TokenpruneQwen2_5OmniForConditionalGeneration):
    """The same under the name that released checkpoints have."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen3OmniProcessor,
    info=PlannedQwen3OmniInfo,
    dummy_inputs=Qwen3OmniMoeThinkerDummyInputsBuilder,
)
class TokenpruneQwen3OmniMoeForConditionalGeneration(
    HeardItems, Qwen3OmniMoeThinkerForConditionalGeneration
):
    """vLLM's Qwen3-Omni, whose features are what the plan leaves, at every depth."""

    tower_adapter: ClassVar[type[VllmPackedAdapter]] = VllmOmniAdapter

    def _with_plan(self) -> Any:
        planned = super()._with_plan()
        for number, merger in zip(
            self.visual.deepstack_visual_indexes, self.visual.merger_list, strict=True
        ):
            run_behind(self.visual.blocks[number], merger)
        return planned


def run_behind(block: nn.Module, merger: nn.Module) -> None:
    """Have the merger of a depth run behind its block, and not behind the last one as in vLLM.

    By then further units may have left, and rows of the depth couldn't be told apart any more.

    Args:
        block: what makes the states of the depth.
        merger: called with these states behind the last block; with the plan in it.
    """
    merge, made = merger.forward, list[Tensor]()

    def keep(block: nn.Module, args: Any, hidden: Tensor) -> None:
        made[:] = [merge(hidden)]

    block.register_forward_hook(keep)
    merger.forward = lambda hidden: made.pop()
