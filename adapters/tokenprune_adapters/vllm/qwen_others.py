"""Qwen2-VL, Qwen3-VL-MoE and Qwen3.5 in vLLM with a plan in the tower or behind.

The latter differ from the families of `qwen_vl` in their LLMs; imported when an engine runs one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5MoeProcessingInfo,
    Qwen3_5ProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.model_executor.models.qwen3_vl_moe import (
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLMoeProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.qwen_clips import TimedClips, WordedClips
from tokenprune_adapters.vllm.qwen_vl import (
    PlannedFrames,
    PlannedGrids,
    PlannedItems,
    PlannedPrompt,
    PlannedQwen3Processor,
)


class WholePictures(PlannedItems):
    """For models of which vLLM prunes no clips: its interface for that is wholly ours here."""

    supports_multimodal_pruning = True

    def _process_image_input(self, image_input: Any) -> tuple[Tensor, ...]:
        model: Any = super()
        whole = model._process_image_input(image_input)
        return self._postprocess_image_embeds_evs(whole, image_input)


class PlannedQwen2Info(PlannedGrids, Qwen2VLProcessingInfo):
    """Qwen2-VL's counts."""


class PlannedQwen3MoeInfo(PlannedFrames, Qwen3VLMoeProcessingInfo):
    """Qwen3-VL-MoE's counts."""


class PlannedQwen35Info(PlannedFrames, Qwen3_5ProcessingInfo):
    """Qwen3.5's counts."""


class PlannedQwen35MoeInfo(PlannedFrames, Qwen3_5MoeProcessingInfo):
    """Qwen3.5-MoE's counts."""


class PlannedQwen2Processor(PlannedPrompt, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen2Processor, info=PlannedQwen2Info, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class TokenpruneQwen2VLForConditionalGeneration(
    TimedClips, WholePictures, Qwen2VLForConditionalGeneration
):
    """vLLM's Qwen2-VL, whose features are what the plan leaves."""

    def _process_video_input(self, video_input: Any) -> tuple[Tensor, ...]:
        whole = super()._process_video_input(video_input)
        return self._postprocess_video_embeds_evs(whole, video_input)


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen3Processor, info=PlannedQwen3MoeInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class TokenpruneQwen3VLMoeForConditionalGeneration(
    WordedClips, PlannedItems, Qwen3VLMoeForConditionalGeneration
):
    """vLLM's Qwen3-VL-MoE, whose features are what the plan leaves, at every depth."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen3Processor, info=PlannedQwen35Info, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class TokenpruneQwen3_5ForConditionalGeneration(
    WordedClips, PlannedItems, Qwen3_5ForConditionalGeneration
):
    """vLLM's Qwen3.5, whose features are what the plan leaves."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen3Processor, info=PlannedQwen35MoeInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class TokenpruneQwen3_5MoeForConditionalGeneration(
    WordedClips, PlannedItems, Qwen3_5MoeForConditionalGeneration
):
    """vLLM's Qwen3.5-MoE, whose features are what the plan leaves."""
