"""Idefics3 and SmolVLM in vLLM with a plan behind the tower; imported when an engine runs one."""

from __future__ import annotations

from vllm.model_executor.models.idefics3 import (
    Idefics3DummyInputsBuilder,
    Idefics3ForConditionalGeneration,
    Idefics3MultiModalProcessor,
    Idefics3ProcessingInfo,
)
from vllm.model_executor.models.smolvlm import (
    SmolVLMForConditionalGeneration,
    SmolVLMProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.spelled import PlannedSpelling, SpelledPictures


class PlannedProcessor(PlannedSpelling, Idefics3MultiModalProcessor):
    """The prompts of both."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=Idefics3ProcessingInfo, dummy_inputs=Idefics3DummyInputsBuilder
)
class TokenpruneIdefics3ForConditionalGeneration(SpelledPictures, Idefics3ForConditionalGeneration):
    """vLLM's Idefics3, whose features are what the plan leaves."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=SmolVLMProcessingInfo, dummy_inputs=Idefics3DummyInputsBuilder
)
class TokenpruneSmolVLMForConditionalGeneration(SpelledPictures, SmolVLMForConditionalGeneration):
    """vLLM's SmolVLM, whose features are what the plan leaves."""
