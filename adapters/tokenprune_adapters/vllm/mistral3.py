"""Mistral 3 in vLLM with a plan in its own vision tower or behind; imported when needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.mistral3 import (
    Mistral3DummyInputsBuilder,
    Mistral3ForConditionalGeneration,
    Mistral3MultiModalProcessor,
    Mistral3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from tokenprune.integrations import packed_encoder
from tokenprune_adapters.vllm.pixtral_tower import VllmPixtralAdapter
from tokenprune_adapters.vllm.rows import ServedRows
from tokenprune_adapters.vllm.runs import Runs, ordered
from tokenprune_adapters.vllm.spelled import PlannedSpelling, SpelledPictures


class PlannedProcessor(PlannedSpelling, Mistral3MultiModalProcessor):
    """As many placeholders as a plan leaves, and what ends the rows of units."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=Mistral3ProcessingInfo, dummy_inputs=Mistral3DummyInputsBuilder
)
class TokenpruneMistral3ForConditionalGeneration(SpelledPictures, Mistral3ForConditionalGeneration):
    """vLLM's Mistral 3, whose features are what the plan leaves."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build the model, and put a plan that acts inside the tower into it.

        Raises:
            TokenpruneError: the plan can't be served.
        """
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._pruned = None
        if self.rows.inside is not None:
            adapter = VllmPixtralAdapter(self.vision_tower, self.config.spatial_merge_size)
            self._pruned = packed_encoder(self.vision_tower, self.rows.plan, adapter)

    @property
    def rows(self) -> ServedRows:
        """The plan on this model."""
        assert isinstance(self.served, ServedRows)
        return self.served

    def chosen(self, given: Any, runs: Sequence[Runs]) -> list[tuple[Tensor, Tensor]]:
        """What the plan leaves of every picture, and whose places it holds."""
        if self._pruned is None:
            return super().chosen(given, runs)
        left = self._pruned.run(lambda: torch.cat([*self.whole(given)]))
        return [ordered(one) for one in left]
