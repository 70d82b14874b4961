"""PaddleOCR-VL in vLLM with a plan in its tower or behind; imported when needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
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
            shapes = [tuple(int(side) for side in grid) for grid in given[grids].tolist()]
            left = self._planned.run(lambda: self._seen(given[pixels], shapes))
            return tuple(
                laid([one.features[0]], one.index[0], math.prod(self.served.merged(grid)))
                for one, grid in zip(left, shapes, strict=True)
            )

    def _seen(self, pixels: Any, grids: Sequence[tuple[int, ...]]) -> Tensor:
        """Rows `[U, d]` of all units, of one call of the tower.

        Args:
            pixels: patches of every picture, or of all of them in a row `[R, 3, h, w]`.
            grids: (t, h, w) in patches.
        """
        flat = pixels if isinstance(pixels, Tensor) and pixels.dim() == 4 else torch.cat([*pixels])
        counts = [math.prod(grid) for grid in grids]
        places = torch.cat([torch.arange(math.prod(grid)) % math.prod(grid[1:]) for grid in grids])
        borders = torch.tensor([0, *counts]).cumsum(0).to(flat.device, torch.int32)
        seen = self.visual(
            pixel_values=flat.type(self.visual.dtype),
            image_grid_thw=grids,
            position_ids=places.to(flat.device),
            interpolate_pos_encoding=True,
            cu_seqlens=borders,
        )
        return torch.cat([*self.mlp_AR(seen.squeeze(0).split(counts), grids)])
