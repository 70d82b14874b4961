"""Qwen2.5-VL and Qwen3-VL in vLLM with a plan behind the tower; imported when an engine runs one.

vLLM numbers the tokens of a prompt before it has run anything. Where survivors stand on their grid
is known afterwards, so their rows and columns travel behind their features, in vLLM's own way for
pruned clips (`recompute_mrope_positions`). Positions of the text follow from the grids alone. Clips
aren't served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import PromptReplacement
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from tokenprune.errors import BudgetError
from tokenprune_adapters.vllm.grids import CHANNELS, ServedGrids, read
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import require_pixels


class PlannedGrids:
    """How many places the largest picture gets; mixed into vLLM's own counting."""

    @cached_property
    def served(self) -> ServedGrids:
        """The plan on this model."""
        info: Any = self
        return _served(info.get_hf_config())

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Pictures, and no clips."""
        return {"image": None, "video": 0}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """What is left of the largest picture."""
        info: Any = self
        size = info.get_image_size_with_most_features()
        patch = self.served.unit // self.served.merge
        return {"image": self.served.left((1, size.height // patch, size.width // patch))}


class PlannedQwen25Info(PlannedGrids, Qwen2_5_VLProcessingInfo):
    """Qwen2.5-VL's counts."""


class PlannedQwen3Info(PlannedGrids, Qwen3VLProcessingInfo):
    """Qwen3-VL's counts."""


class PlannedInputs:
    """The largest picture, for profiling; mixed into vLLM's own builders of dummy inputs."""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Pictures without clips."""
        builder: Any = self
        size = builder.info.get_image_size_with_most_features()
        images = builder._get_dummy_images(
            width=size.width,
            height=size.height,
            num_images=mm_counts.get("image", 0),
            overrides=mm_options.get("image"),
        )
        return {"image": images}


class PlannedQwen25Inputs(PlannedInputs, Qwen2_5_VLDummyInputsBuilder):
    """Qwen2.5-VL's dummy inputs."""


class PlannedQwen3Inputs(PlannedInputs, Qwen3VLDummyInputsBuilder):
    """Qwen3-VL's dummy inputs."""


class PlannedPrompt:
    """As many placeholders as a plan leaves; mixed into vLLM's own processors."""

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        processor: Any = super()
        updates = processor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        (whole,) = [update for update in updates if update.modality == "image"]
        info: Any = self
        served: ServedGrids = info.info.served

        def left(item: int) -> list[int]:
            grid = out_mm_kwargs["image"][item]["image_grid_thw"].data.tolist()
            try:
                count = served.left(grid)
            except BudgetError as error:  # the server answers the request with it
                raise ValueError(str(error)) from error
            placeholder: int = whole.replacement(item)[0]
            return [placeholder] * count

        return [PromptReplacement(modality="image", target=whole.target, replacement=left)]


class PlannedQwen25Processor(PlannedPrompt, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's prompts."""


class PlannedQwen3Processor(PlannedPrompt, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's prompts."""


class PlannedPictures:
    """Features and positions of what a plan leaves; mixed into vLLM's own models."""

    config: Any

    @cached_property
    def served(self) -> ServedGrids:
        """The plan on this model."""
        return _served(self.config)

    def _postprocess_image_embeds_evs(
        self, image_embeds_split: Sequence[Tensor], image_input: Any
    ) -> tuple[Tensor, ...]:
        """What is left of the features `[N, d]` of every picture, its places behind them."""
        require_pixels(image_input)
        width = self.config.vision_config.out_hidden_size
        grids = image_input["image_grid_thw"].tolist()
        with gpu_sync_allowed():
            return tuple(
                self.served.kept(features, grid, width)
                for features, grid in zip(image_embeds_split, grids, strict=True)
            )

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[Tensor, int]:
        """Positions `[3, T]` as of whole pictures, and what to add to the number of a new token.

        All tokens of a picture are given its first place, until their rows and columns are known.
        """
        parts, first, done = [], 0, 0
        for one in sorted(mm_features, key=lambda one: one.mm_position.offset):
            start, length = one.mm_position.offset, one.mm_position.length
            _, height, wide = self.served.merged(one.data["image_grid_thw"].data.tolist())
            parts.append(torch.arange(first, first + start - done))
            first, done = first + start - done, start + length
            parts.append(torch.full((length,), first))
            first += max(height, wide)
        rest = len(input_tokens) - done
        parts.append(torch.arange(first, first + rest))
        return torch.cat(parts).expand(3, -1).clone(), first + rest - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: Sequence[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Features alone, and positions `[3, T]` with the rows and columns that came behind them.

        Args:
            input_ids: `[T]` the whole prompt, which ends with text, as chat templates have it.
            multimodal_embeddings: of the pictures at hand in this step, or of parts of them.
            mrope_positions: as they were.
            num_computed_tokens: tokens of the prompt in front of this step.
        """
        positions = mrope_positions.clone()
        with gpu_sync_allowed():
            ids = torch.as_tensor(input_ids, device=positions.device)
            behind = ids[num_computed_tokens:] == self.config.image_token_id
            places = behind.nonzero()[:, 0] + num_computed_tokens
            at = 0
            for features in multimodal_embeddings:
                mine = places[at : at + len(features)]
                at += len(features)
                # pictures have one moment, so the axis of time holds their first place
                found = read(features[:, -CHANNELS:]).to(positions.device)
                positions[1:, mine] = (positions[0, mine] + found).to(positions.dtype)
            delta = int(positions.max()) + 1 - len(ids)
        return [features[:, :-CHANNELS] for features in multimodal_embeddings], positions, delta


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen25Processor, info=PlannedQwen25Info, dummy_inputs=PlannedQwen25Inputs
)
class TokenpruneQwen2_5_VLForConditionalGeneration(
    PlannedPictures, Qwen2_5_VLForConditionalGeneration
):
    """vLLM's Qwen2.5-VL, whose features are what the plan leaves."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen3Processor, info=PlannedQwen3Info, dummy_inputs=PlannedQwen3Inputs
)
class TokenpruneQwen3VLForConditionalGeneration(PlannedPictures, Qwen3VLForConditionalGeneration):
    """vLLM's Qwen3-VL, whose features are what the plan leaves, at every depth."""


def _served(config: Any) -> ServedGrids:
    served = served_plan(config)
    assert isinstance(served, ServedGrids)
    return served
