"""PaddleOCR-VL in vLLM with a plan behind the tower; imported when an engine runs it."""

from __future__ import annotations

from vllm.model_executor.models.paddleocr_vl import (
    PaddleOCRVLDummyInputsBuilder,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLMultiModalProcessor,
    PaddleOCRVLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.qwen_others import WholePictures
from tokenprune_adapters.vllm.qwen_vl import PlannedGrids, PlannedPrompt


class PlannedPaddleInfo(PlannedGrids, PaddleOCRVLProcessingInfo):
    """PaddleOCR-VL's counts."""


class PlannedPaddleProcessor(PlannedPrompt, PaddleOCRVLMultiModalProcessor):
    """PaddleOCR-VL's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedPaddleProcessor, info=PlannedPaddleInfo, dummy_inputs=PaddleOCRVLDummyInputsBuilder
)
class TokenprunePaddleOCRVLForConditionalGeneration(
    WholePictures, PaddleOCRVLForConditionalGeneration
):
    """vLLM's PaddleOCR-VL, whose features are what the plan leaves."""
