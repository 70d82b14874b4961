"""LLaVA in vLLM with a plan in its own vision tower; imported when an engine runs it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
    PixtralHFMultiModalProcessor,
    PixtralHFProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune.integrations import encoder
from tokenprune_adapters.vllm.one_size import ServedOneSize
from tokenprune_adapters.vllm.row_pictures import RowPictures
from tokenprune_adapters.vllm.rows import ServedRows
from tokenprune_adapters.vllm.seen import SquarePictures
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import require_pixels, with_bare_towers
from tokenprune_adapters.vllm.spelled import PlannedSpelling
from tokenprune_adapters.vllm.towers import VllmSiglipAdapter, returning_tensors


class PlannedInfo(LlavaProcessingInfo):
    """How many places a picture gets: the one number that prompt, profiling and caches use."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        """Tokens that the plan leaves of a picture; the processor gives all of them one size."""
        served = _served(self.get_hf_config())
        assert isinstance(served, ServedOneSize)
        return served.places


class PlannedSquares(SquarePictures, LlavaMultiModalProcessor):
    """As vLLM's, whose places are those of the tower's own size."""


class PlannedRows(PlannedSpelling, PixtralHFMultiModalProcessor):
    """As many placeholders as a plan leaves, and what ends the rows of a Pixtral's patches."""


def _info(context: Any) -> Any:
    by_rows = isinstance(_served(context.get_hf_config()), ServedRows)
    return PixtralHFProcessingInfo(context) if by_rows else PlannedInfo(context)


def _processor(info: Any, dummy_inputs: Any, **more: Any) -> Any:
    kind = PlannedRows if isinstance(info, PixtralHFProcessingInfo) else PlannedSquares
    return kind(info, dummy_inputs, **more)


@MULTIMODAL_REGISTRY.register_processor(
    _processor, info=_info, dummy_inputs=LlavaDummyInputsBuilder
)
class TokenpruneLlavaForConditionalGeneration(RowPictures, LlavaForConditionalGeneration):
    """vLLM's LLaVA, whose features are what the plan leaves.

    A Pixtral tower sees pictures at their own size and shows them in rows, the others at one size.
    """

    hf_to_vllm_mapper = with_bare_towers(LlavaForConditionalGeneration.hf_to_vllm_mapper)

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build the model and put the plan into its tower.

        Raises:
            TokenpruneError: the plan can't be served.
        """
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if isinstance(self.served, ServedOneSize):
            vision = self.vision_tower.vision_model
            if self.served.tower is VllmSiglipAdapter:
                returning_tensors(vision)
            self._pruned = encoder(
                vision, self.served.plan, self.served.tower, used=self.served.used
            )

    @cached_property
    def served(self) -> Any:
        """The plan on this model, by rows or on pictures of one size."""
        return _served(self.config)

    def embed_multimodal(self, **given: Any) -> Any:
        """Features of every picture, `[left, d]`, with the text between those of a Pixtral."""
        if isinstance(self.served, ServedRows):
            return super().embed_multimodal(**given)
        return LlavaForConditionalGeneration.embed_multimodal(self, **given)

    def _process_image_input(self, image_input: Any) -> Any:
        """Projected features `[images, places, d]`, of a Pixtral all of every picture's.

        Raises:
            UnsupportedCallError: the features were computed before.
        """
        require_pixels(image_input)
        if isinstance(self.served, ServedRows):
            return super()._process_image_input(image_input)

        def features() -> Tensor:
            # with the class token, which strategies may read
            made: Tensor = self.vision_tower(
                image_input["pixel_values"], feature_select_strategy="full"
            )
            return made

        return self._pruned.run(features, projector=self.multi_modal_projector).features


def _served(config: Any) -> ServedRows | ServedOneSize:
    served = served_plan(config)
    assert isinstance(served, ServedRows | ServedOneSize)
    return served
