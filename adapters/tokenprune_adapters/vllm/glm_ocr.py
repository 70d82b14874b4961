"""GLM-OCR in vLLM with a plan in the tower or behind; imported when an engine runs it."""

from __future__ import annotations

from vllm.model_executor.models.glm4_1v import Glm4vDummyInputsBuilder
from vllm.model_executor.models.glm_ocr import GlmOcrForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.glm import PlannedGlmInfo, PlannedGlmProcessor
from tokenprune_adapters.vllm.glm_towers import VllmGlmAdapter
from tokenprune_adapters.vllm.qwen_others import WholePictures


@MULTIMODAL_REGISTRY.register_processor(
    PlannedGlmProcessor, info=PlannedGlmInfo, dummy_inputs=Glm4vDummyInputsBuilder
)
class TokenpruneGlmOcrForConditionalGeneration(WholePictures, GlmOcrForConditionalGeneration):
    """vLLM's GLM-OCR, whose features are what the plan leaves."""

    tower_adapter = VllmGlmAdapter
