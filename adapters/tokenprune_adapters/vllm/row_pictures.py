"""Pictures of a Pixtral tower with a plan in it or behind; imported when an engine runs one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.integrations import packed_encoder
from tokenprune_adapters.vllm.pixtral_tower import VllmPixtralAdapter
from tokenprune_adapters.vllm.rows import ServedRows
from tokenprune_adapters.vllm.runs import Runs, ordered
from tokenprune_adapters.vllm.served import ServedPlan
from tokenprune_adapters.vllm.spelled import SpelledPictures


class RowPictures(SpelledPictures):
    """Features of what a plan leaves of rows of units; mixed into vLLM's own models."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build the model, and put a plan that acts inside the tower into it.

        Raises:
            TokenpruneError: the plan can't be served.
        """
        model: Any = super()
        model.__init__(vllm_config=vllm_config, prefix=prefix)
        built: Any = self
        served: ServedPlan = self.served
        self._inside = None
        if isinstance(served, ServedRows) and served.inside is not None:
            adapter = VllmPixtralAdapter(built.vision_tower, served.side)
            self._inside = packed_encoder(built.vision_tower, served.plan, adapter)

    def chosen(self, given: Any, runs: Sequence[Runs]) -> list[tuple[Tensor, Tensor]]:
        """What the plan leaves of every picture, and whose places it holds."""
        if self._inside is None:
            return super().chosen(given, runs)
        left = self._inside.run(lambda: torch.cat([*self.whole(given)]))
        return [ordered(one) for one in left]
