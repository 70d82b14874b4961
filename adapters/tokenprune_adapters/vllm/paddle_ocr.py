"""PaddleOCR-VL in vLLM with a plan in its tower or behind; imported when needed."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from vllm.model_executor.models.paddleocr_vl import (
    PaddleOCRVLDummyInputsBuilder,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLMultiModalProcessor,
    PaddleOCRVLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from tokenprune.integrations import PrunedPackedEncoder, packed_encoder
from tokenprune_adapters.vllm.paddle_tower import VllmPaddleAdapter
from tokenprune_adapters.vllm.planned_tower import laid
from tokenprune_adapters.vllm.qwen_others import WholePictures
from tokenprune_adapters.vllm.qwen_vl import PlannedGrids, PlannedPrompt
from tokenprune_adapters.vllm.sharing import require_pixels


class PlannedPaddleInfo(PlannedGrids, PaddleOCRVLProcessingInfo):
    """PaddleOCR-VL's counts."""


class PlannedPaddleProcessor(PlannedPrompt, PaddleOCRVLMultiModalProcessor):
    """PaddleOCR-VL's prompts."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedPaddleProcessor, info=PlannedPaddleInfo, dummy_inputs=PaddleOCRVLDummyInputsBuilder
)
class TokenprunePaddleOCRVLForConditionalGeneration(
    WholePictures, PaddleOCRVLForConditionalGeneration
):
    """vLLM's PaddleOCR-VL, whose features are what the plan leaves."""

    def _with_plan(self) -> PrunedPackedEncoder:
        return packed_encoder(self.visual, self.served.plan, VllmPaddleAdapter)

    def _rows(self, given: Any, pixels: str, grids: str) -> tuple[Tensor, ...]:
        require_pixels(given)
        with gpu_sync_allowed():
            return tuple(
                self._laid(patches, grid)
                for patches, grid in zip(given[pixels], given[grids], strict=True)
            )

    def _laid(self, patches: Tensor, grid: Tensor) -> Tensor:
        """Rows of all tokens of a picture, which vLLM gives to the tower by itself."""

        def features() -> Tensor:
            seen = self.encode_image(patches, grid).squeeze(0)
            (rows,) = self.mlp_AR([seen], grid[None])
            found: Tensor = rows
            return found

        (left,) = self._planned.run(features)
        total = math.prod(self.served.merged(grid.tolist()))
        return laid([left.features[0]], left.index[0], total)
