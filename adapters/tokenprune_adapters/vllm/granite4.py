"""Granite 4 Vision in vLLM with a plan behind the tower; imported when an engine runs it.

Features that enter in front of several layers of the LLM stand side by side, here as in `attach`:
a method reads those of all depths, and what is left of a picture has a row for each token.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor
from vllm.model_executor.models.granite4_vision import (
    Granite4VisionForConditionalGeneration,
    Granite4VisionMultiModalProcessor,
    Granite4VisionProcessingInfo,
)
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.llava_next import PlannedTiles, kept_of_tiles, served_tiles
from tokenprune_adapters.vllm.seen import SquarePictures
from tokenprune_adapters.vllm.sharing import with_bare_towers
from tokenprune_adapters.vllm.tiles import ServedTiles


class PlannedGraniteInfo(PlannedTiles, Granite4VisionProcessingInfo):
    """Granite's counts."""


class PlannedGranite(SquarePictures, Granite4VisionMultiModalProcessor):
    """Granite's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedGranite, info=PlannedGraniteInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class TokenpruneGranite4VisionForConditionalGeneration(Granite4VisionForConditionalGeneration):
    """vLLM's Granite 4 Vision, whose features are what the plan leaves, at every depth."""

    hf_to_vllm_mapper = with_bare_towers(Granite4VisionForConditionalGeneration.hf_to_vllm_mapper)

    @cached_property
    def served(self) -> ServedTiles:
        """The plan on this model."""
        return served_tiles(self.config)

    def _get_all_layer_features(
        self, pixel_values: Tensor, image_sizes: Tensor
    ) -> tuple[list[int], list[Tensor]]:
        """Layers of the LLM, and for every picture `[left, levels * d]` what enters there."""
        layers, whole = super()._get_all_layer_features(pixel_values, image_sizes)
        return layers, kept_of_tiles(self.served, whole, image_sizes)
