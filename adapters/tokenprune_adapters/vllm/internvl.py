"""InternVL in vLLM with a plan in its own vision tower; imported when an engine runs it.

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

from tokenprune.integrations import tiled_encoder
from tokenprune_adapters.vllm.intern_tower import VllmInternAdapter
from tokenprune_adapters.vllm.pieces import ServedPieces
from tokenprune_adapters.vllm.placeholders import shortened
from tokenprune_adapters.vllm.runs import ordered
from tokenprune_adapters.vllm.seen import SquarePictures
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


class PlannedProcessor(SquarePictures, InternS1MultiModalProcessor):
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

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build the model and put the plan into its tower, where it acts there or reads it.

        Raises:
            TokenpruneError: the plan can't be served.
        """
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.served = _served(self.config)
        self._pruned = None
        if self.served.used is not None:
            side = round(1 / self.downsample_ratio)
            self._pruned = tiled_encoder(
                self.vision_tower, self.served.plan, VllmInternAdapter, side=side
            )

    def _process_vision_input(self, image_input: Any) -> tuple[Tensor, ...]:
        """Projected features of every picture, `[left, d]`.

        Raises:
            UnsupportedCallError: the features were computed before.
        """
        require_pixels(image_input)
        with gpu_sync_allowed():
            if self._pruned is None:
                found = super()._process_vision_input(image_input)
                return tuple(self.served.kept(one, [len(one)])[0] for one in found)
            left = self._pruned.run(
                lambda: self.extract_feature(image_input["pixel_values"]),
                image_input["num_patches"].tolist(),
            )
            return tuple(ordered(one)[0] for one in left)


def _served(config: Any) -> ServedPieces:
    served = served_plan(config)
    assert isinstance(served, ServedPieces)
    return served
