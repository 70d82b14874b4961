"""GLM-4.1V and GLM-4.5V in vLLM with a plan in the tower or behind; imported when needed."""

from __future__ import annotations

from vllm.model_executor.models.glm4_1v import (
    Glm4vDummyInputsBuilder,
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm4vMultiModalProcessor,
    Glm4vProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.glm_towers import VllmGlmAdapter
from tokenprune_adapters.vllm.qwen_others import WholePictures
from tokenprune_adapters.vllm.qwen_vl import PlannedGrids, PlannedPrompt


class PlannedGlmInfo(PlannedGrids, Glm4vProcessingInfo):
    """GLM's counts."""


class PlannedGlmProcessor(PlannedPrompt, Glm4vMultiModalProcessor):
    """GLM's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedGlmProcessor, info=PlannedGlmInfo, dummy_inputs=Glm4vDummyInputsBuilder
)
class TokenpruneGlm4vForConditionalGeneration(WholePictures, Glm4vForConditionalGeneration):
    """vLLM's GLM-4.1V, whose features are what the plan leaves."""

    tower_adapter = VllmGlmAdapter


@MULTIMODAL_REGISTRY.register_processor(
    PlannedGlmProcessor, info=PlannedGlmInfo, dummy_inputs=Glm4vDummyInputsBuilder
)
class TokenpruneGlm4vMoeForConditionalGeneration(WholePictures, Glm4vMoeForConditionalGeneration):
    """vLLM's GLM-4.5V, whose features are what the plan leaves."""

    tower_adapter = VllmGlmAdapter
