"""Clips of LLaVA-NeXT-Video and -OneVision in vLLM with a plan behind the tower.

Imported when an engine runs one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava_next_video import (
    LlavaNextVideoDummyInputsBuilder,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoMultiModalProcessor,
    LlavaNextVideoProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune_adapters.vllm.frames import ServedFrames
from tokenprune_adapters.vllm.seen import SquarePictures
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import with_bare_towers
from tokenprune_adapters.vllm.tiles import ServedTiles


class PlannedClips:
    """How many places a clip gets; mixed into vLLM's own counting."""

    @cached_property
    def frames(self) -> ServedFrames:
        """The plan on clips."""
        info: Any = self
        return _served(info.get_hf_config())

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        """Tokens that the plan leaves of a clip; the processor gives all frames one size.

        Raises:
            ValueError: a budget asks for more tokens than the clip has.
        """
        return self.frames.left(num_frames)

    def _get_max_video_frames(self, max_tokens: int) -> int:
        """Frames of the clip for profiling: as many as without the plan."""
        return (max_tokens - self.frames.newlines) // self.frames.side**2


class KeptClips:
    """Features of what a plan leaves of clips; mixed into vLLM's own models."""

    config: Any

    @cached_property
    def frames(self) -> ServedFrames:
        """The plan on clips."""
        return _served(self.config)

    def _process_video_pixels(self, inputs: Any) -> list[Tensor]:
        """Projected features of every clip, `[left, d]`."""
        model: Any = super()
        found = model._process_video_pixels(inputs)
        return [self.frames.kept(one.flatten(0, -2)) for one in found]


class PlannedNextVideoInfo(PlannedClips, LlavaNextVideoProcessingInfo):
    """LLaVA-NeXT-Video's counts."""


class PlannedNextVideo(SquarePictures, LlavaNextVideoMultiModalProcessor):
    """LLaVA-NeXT-Video's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedNextVideo,
    info=PlannedNextVideoInfo,
    dummy_inputs=LlavaNextVideoDummyInputsBuilder,
)
class TokenpruneLlavaNextVideoForConditionalGeneration(
    KeptClips, LlavaNextVideoForConditionalGeneration
):
    """vLLM's LLaVA-NeXT-Video, whose features are what the plan leaves."""

    hf_to_vllm_mapper = with_bare_towers(LlavaNextVideoForConditionalGeneration.hf_to_vllm_mapper)


def _served(config: Any) -> ServedFrames:
    served = served_plan(config)
    if isinstance(served, ServedTiles):
        assert served.frames is not None
        return served.frames
    assert isinstance(served, ServedFrames)
    return served
