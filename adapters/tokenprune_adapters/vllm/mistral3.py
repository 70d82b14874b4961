"""Mistral 3 in vLLM with a plan in its own vision tower or behind; imported when needed."""

from __future__ import annotations

from vllm.model_executor.models.mistral3 import (
    Mistral3DummyInputsBuilder,
    Mistral3ForConditionalGeneration,
    Mistral3MultiModalProcessor,
    Mistral3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.row_pictures import RowPictures
from tokenprune_adapters.vllm.spelled import PlannedSpelling


class PlannedProcessor(PlannedSpelling, Mistral3MultiModalProcessor):
    """As many placeholders as a plan leaves, and what ends the rows of units."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=Mistral3ProcessingInfo, dummy_inputs=Mistral3DummyInputsBuilder
)
class TokenpruneMistral3ForConditionalGeneration(RowPictures, Mistral3ForConditionalGeneration):
    """vLLM's Mistral 3, whose features are what the plan leaves."""
