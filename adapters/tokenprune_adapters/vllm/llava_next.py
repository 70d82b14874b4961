"""LLaVA-NeXT and -OneVision in vLLM with a plan behind the tower; imported when an engine runs one.

Clips of -OneVision are those of `llava_clips`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageSize

from tokenprune.errors import BudgetError, UnsupportedModelError
from tokenprune_adapters.vllm.llava_clips import KeptClips, PlannedClips
from tokenprune_adapters.vllm.seen import SquarePictures
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import require_pixels, with_bare_towers
from tokenprune_adapters.vllm.tiles import ServedTiles


class PlannedTiles:
    """How many places a picture of a size gets; mixed into vLLM's own counting."""

    @cached_property
    def served(self) -> ServedTiles:
        """The plan on this model."""
        info: Any = self
        return served_tiles(info.get_hf_config())

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        """Tokens that the plan leaves of a picture, newlines included.

        Raises:
            ValueError: a budget asks for more tokens than the picture has.
            UnsupportedModelError: vLLM and transformers arrange tiles differently.
        """
        whole: Any = super()
        dense = whole.get_num_image_tokens(image_width=image_width, image_height=image_height)
        known = self.served.places((image_height, image_width)).count
        if dense != known:  # filling the wrong number of places would end the engine
            raise UnsupportedModelError(
                f"vLLM counts {dense} tokens of a picture of {image_width} x {image_height}, and "
                f"transformers {known}.",
                where="config.image_grid_pinpoints",
                remedy="Use the releases that were tested.",
            )
        try:
            return self.served.left((image_height, image_width))
        except BudgetError as error:  # the server answers the request with it
            raise ValueError(str(error)) from error

    def get_image_size_with_most_features(self) -> ImageSize:
        """The picture that most is left of, the largest among equals, for profiling."""
        height, width = self.served.largest
        return ImageSize(width=width, height=height)


class PlannedNextInfo(PlannedTiles, LlavaNextProcessingInfo):
    """LLaVA-NeXT's counts."""


class PlannedOnevisionInfo(PlannedTiles, PlannedClips, LlavaOnevisionProcessingInfo):
    """LLaVA-OneVision's counts."""


class PlannedNext(SquarePictures, LlavaNextMultiModalProcessor):
    """LLaVA-NeXT's prompts."""


class PlannedOnevision(SquarePictures, LlavaOnevisionMultiModalProcessor):
    """LLaVA-OneVision's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedNext, info=PlannedNextInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class TokenpruneLlavaNextForConditionalGeneration(LlavaNextForConditionalGeneration):
    """vLLM's LLaVA-NeXT, whose features are what the plan leaves."""

    hf_to_vllm_mapper = with_bare_towers(LlavaNextForConditionalGeneration.hf_to_vllm_mapper)

    @cached_property
    def served(self) -> ServedTiles:
        """The plan on this model."""
        return served_tiles(self.config)

    def _process_image_input(self, image_input: Any) -> list[Tensor]:
        """Projected features of every picture, `[left, d]`."""
        require_pixels(image_input)
        whole = super()._process_image_input(image_input)
        return kept_of_tiles(self.served, whole, image_input["image_sizes"])


@MULTIMODAL_REGISTRY.register_processor(
    PlannedOnevision,
    info=PlannedOnevisionInfo,
    dummy_inputs=LlavaOnevisionDummyInputsBuilder,
)
class TokenpruneLlavaOnevisionForConditionalGeneration(
    KeptClips, LlavaOnevisionForConditionalGeneration
):
    """vLLM's LLaVA-OneVision, whose features are what the plan leaves."""

    hf_to_vllm_mapper = with_bare_towers(LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper)

    @cached_property
    def served(self) -> ServedTiles:
        """The plan on this model."""
        return served_tiles(self.config)

    def _process_image_input(self, image_input: Any) -> list[Tensor]:
        """Projected features of every picture, `[left, d]`."""
        require_pixels(image_input)
        whole = super()._process_image_input(image_input)
        return kept_of_tiles(self.served, whole, image_input["image_sizes"])


def served_tiles(config: Any) -> ServedTiles:
    """The plan of a config whose pictures are stitched of tiles."""
    served = served_plan(config)
    assert isinstance(served, ServedTiles)
    return served


def kept_of_tiles(served: ServedTiles, whole: Sequence[Tensor], sizes: Tensor) -> list[Tensor]:
    """What is left of every picture, `[left, d]`.

    Args:
        served: the plan.
        whole: features `[L, d]` of every picture.
        sizes: their heights and widths in pixels, `[pictures, 2]`.
    """
    return [
        served.kept(features, (high, wide))
        for features, (high, wide) in zip(whole, sizes.tolist(), strict=True)
    ]
