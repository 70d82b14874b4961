"""LLaVA in vLLM with a plan in its own vision tower; imported when an engine runs it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune.integrations import encoder
from tokenprune_adapters.vllm.one_size import ServedOneSize
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import require_pixels, with_bare_towers
from tokenprune_adapters.vllm.towers import VllmSiglipAdapter, returning_tensors


class PlannedInfo(LlavaProcessingInfo):
    """How many places a picture gets: the one number that prompt, profiling and caches use."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        """Tokens that the plan leaves of a picture; the processor gives all of them one size."""
        return _served(self.get_hf_config()).places


@MULTIMODAL_REGISTRY.register_processor(
    LlavaMultiModalProcessor, info=PlannedInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class TokenpruneLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """vLLM's LLaVA, whose features are what the plan leaves."""

    hf_to_vllm_mapper = with_bare_towers(LlavaForConditionalGeneration.hf_to_vllm_mapper)

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build the model and put the plan into its tower.

        Raises:
            TokenpruneError: the plan can't be served.
        """
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        served = _served(self.config)
        vision = self.vision_tower.vision_model
        if served.tower is VllmSiglipAdapter:
            returning_tensors(vision)
        self._pruned = encoder(vision, served.plan, served.tower, used=served.used)

    def _process_image_input(self, image_input: Any) -> Tensor:
        """Projected features `[images, places, d]`.

        Raises:
            UnsupportedCallError: the features were computed before.
        """
        require_pixels(image_input)

        def features() -> Tensor:
            # with the class token, which strategies may read
            made: Tensor = self.vision_tower(
                image_input["pixel_values"], feature_select_strategy="full"
            )
            return made

        return self._pruned.run(features, projector=self.multi_modal_projector).features


def _served(config: Any) -> ServedOneSize:
    served = served_plan(config)
    assert isinstance(served, ServedOneSize)
    return served
