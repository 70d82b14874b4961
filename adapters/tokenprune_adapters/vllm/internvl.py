"""InternVL in vLLM with a plan behind the tower; imported when an engine runs it.

These are checkpoints in the format of transformers, which vLLM serves by its code of InternS1.
Clips aren't served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from tokenprune_adapters.vllm.pieces import ServedPieces
from tokenprune_adapters.vllm.placeholders import shortened
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import require_pixels


class PlannedInfo(InternS1ProcessingInfo):
    """What may be in a prompt."""

    @cached_property
    def served(self) -> ServedPieces:
        """The plan on this model."""
        return _served(self.get_hf_config())

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Pictures, and no clips."""
        return {"image": None, "video": 0}


class PlannedInputs(InternS1DummyInputsBuilder):
    """The largest picture, for profiling."""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Pictures without clips."""
        size = self.info.get_image_size_with_most_features()
        images = self._get_dummy_images(
            width=size.width,
            height=size.height,
            num_images=mm_counts.get("image", 0),
            overrides=mm_options.get("image"),
        )
        return {"image": images}


class PlannedProcessor(InternS1MultiModalProcessor):
    """As many placeholders as a plan leaves."""

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        whole = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        placeholder = self.info.get_hf_processor(**hf_processor_mm_kwargs).image_token_id
        served: ServedPieces = self.info.served

        return [
            shortened(one, placeholder, served.left) for one in whole if one.modality == "image"
        ]


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=PlannedInfo, dummy_inputs=PlannedInputs
)
class TokenpruneInternVLForConditionalGeneration(InternS1ForConditionalGeneration):
    """vLLM's InternVL, whose features are what the plan leaves."""

    @cached_property
    def served(self) -> ServedPieces:
        """The plan on this model."""
        return _served(self.config)

    def _process_vision_input(self, image_input: Any) -> tuple[Tensor, ...]:
        """Projected features of every picture, `[left, d]`.

        Raises:
            UnsupportedCallError: the features were computed before.
        """
        require_pixels(image_input)
        with gpu_sync_allowed():
            found = super()._process_vision_input(image_input)
            return tuple(self.served.kept(one, [len(one)])[0] for one in found)


def _served(config: Any) -> ServedPieces:
    served = served_plan(config)
    assert isinstance(served, ServedPieces)
    return served
