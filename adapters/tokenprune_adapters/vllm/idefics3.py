"""Idefics3 and SmolVLM in vLLM with a plan in their own vision tower; imported when one runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.idefics3 import (
    Idefics3DummyInputsBuilder,
    Idefics3ForConditionalGeneration,
    Idefics3MultiModalProcessor,
    Idefics3ProcessingInfo,
)
from vllm.model_executor.models.smolvlm import (
    SmolVLMForConditionalGeneration,
    SmolVLMProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune.integrations import tiled_encoder
from tokenprune_adapters.vllm.pieces import ServedPieces
from tokenprune_adapters.vllm.runs import Runs, ordered
from tokenprune_adapters.vllm.spelled import PlannedSpelling, SpelledPictures
from tokenprune_adapters.vllm.towers import VllmIdeficsAdapter


class PlannedProcessor(PlannedSpelling, Idefics3MultiModalProcessor):
    """The prompts of both."""


class TiledPictures(SpelledPictures):
    """Features of what a plan leaves of tiles; mixed into vLLM's own models."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build the model and put the plan into its tower, where it acts there or reads it.

        Raises:
            TokenpruneError: the plan can't be served.
        """
        model: Any = super()
        model.__init__(vllm_config=vllm_config, prefix=prefix)
        tower: Any = self
        self._pruned = None
        if self.pieces.used is not None:
            self._pruned = tiled_encoder(
                tower.model.vision_model,
                self.pieces.plan,
                VllmIdeficsAdapter,
                side=self.config.scale_factor,
            )

    @property
    def pieces(self) -> ServedPieces:
        """The plan on this model."""
        assert isinstance(self.served, ServedPieces)
        return self.served

    def chosen(self, given: Any, runs: Sequence[Runs]) -> list[tuple[Tensor, Tensor]]:
        """What the plan leaves of every picture, and whose places it holds."""
        if self._pruned is None:
            return super().chosen(given, runs)
        units = self.pieces.side**2

        def tokens() -> Tensor:
            rows = torch.cat([*self.whole(given)])
            return rows.view(-1, units, rows.shape[-1])

        tiles = [self.pieces.shape(one)[1] for one in runs]
        return [ordered(one) for one in self._pruned.run(tokens, tiles)]


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=Idefics3ProcessingInfo, dummy_inputs=Idefics3DummyInputsBuilder
)
class TokenpruneIdefics3ForConditionalGeneration(TiledPictures, Idefics3ForConditionalGeneration):
    """vLLM's Idefics3, whose features are what the plan leaves."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=SmolVLMProcessingInfo, dummy_inputs=Idefics3DummyInputsBuilder
)
class TokenpruneSmolVLMForConditionalGeneration(TiledPictures, SmolVLMForConditionalGeneration):
    """vLLM's SmolVLM, whose features are what the plan leaves."""
