"""MiniCPM-V 4.6 in vLLM with a plan behind the tower; imported when an engine runs it.

Clips aren't served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from vllm.model_executor.models.minicpmv import MiniCPMVDummyInputsBuilder
from vllm.model_executor.models.minicpmv4_6 import (
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6MultiModalProcessor,
    MiniCPMV4_6ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from tokenprune_adapters.vllm.placeholders import between, embedded, reserved
from tokenprune_adapters.vllm.runs import Runs
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.slices import Pieces, ServedSlices, units
from tokenprune_adapters.vllm.spelled import IDS, PlannedSpelling, SpelledPictures

SIZES, MERGED = "tgt_sizes", "use_vit_merger"
"""Rows and columns of patches of each piece, and whether the tower merges squares of them."""


class PlannedInfo(MiniCPMV4_6ProcessingInfo):
    """What may be in a prompt."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Pictures, and no clips."""
        return {"image": None, "video": 0}


class PlannedProcessor(PlannedSpelling, MiniCPMV4_6MultiModalProcessor):
    """As many placeholders as a plan leaves, and what parts the slices."""

    def fits(self, kind: str, seen: Mapping[str, Tensor]) -> bool:
        """Whether slices have a unit for each placeholder."""
        pieces = _pieces(seen[SIZES], seen[MERGED])
        return units(pieces) == int((seen[IDS] == self.placeholder).sum())

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        processor: Any = super(PlannedSpelling, self)
        whole, *_ = processor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        served = _served(self.info.get_hf_config())

        def replacement(item: int) -> Any:
            shown = out_mm_kwargs["image"][item]
            pieces = _pieces(shown[SIZES].data, shown[MERGED].data)
            left = reserved(pieces, served.left)
            return between(whole.replacement(item).full, self.placeholder, left)

        return [PromptReplacement("image", whole.target, replacement)]

    def _recompute_cached_prompt_update(self, cached_update: Any, new_item_idx: int) -> Any:
        """The number of a picture stands in front of it, and is another in another prompt."""
        content = cached_update.content
        first = content.full.index(self.placeholder)
        count = int(content.is_embed(content.full).sum())
        numbered = super()._recompute_cached_prompt_update(
            cached_update.with_content(PromptUpdateDetails.from_seq(content.full[:first])),
            new_item_idx,
        )
        inner, behind = content.full[first : first + count], content.full[first + count :]
        return numbered.with_content(embedded(numbered.content.full, inner, behind))


@MULTIMODAL_REGISTRY.register_processor(
    PlannedProcessor, info=PlannedInfo, dummy_inputs=MiniCPMVDummyInputsBuilder
)
class TokenpruneMiniCPMV4_6ForConditionalGeneration(
    SpelledPictures, MiniCPMV4_6ForConditionalGeneration
):
    """vLLM's MiniCPM-V 4.6, whose features are what the plan leaves."""

    @cached_property
    def slices(self) -> ServedSlices:
        """The plan on this model."""
        return _served(self.config)

    def chosen(self, given: Any, runs: Sequence[Runs]) -> list[tuple[Tensor, Tensor]]:
        """What the plan leaves of every picture, and whose places it holds."""
        pieces = map(_pieces, given[SIZES], given[MERGED])
        return [self.slices.kept(*one) for one in zip(self.whole(given), pieces, strict=True)]


def _pieces(sizes: Tensor, merged: Tensor) -> Pieces:
    """Rows and columns of units of each piece of a picture.

    Args:
        sizes: `[pieces, 2]` in patches.
        merged: `[1]` whether the tower merges squares of them; squares are merged behind it, too.
    """
    side = 4 if bool(merged) else 2
    return [(high // side, wide // side) for high, wide in sizes.tolist()]


def _served(config: Any) -> ServedSlices:
    served = served_plan(config)
    assert isinstance(served, ServedSlices)
    return served
