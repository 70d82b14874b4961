"""Where a strategy stands in a model, and the grid that its tokens are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["encoder", "pre_llm", "decoder"]
STAGES: tuple[Stage, ...] = ("encoder", "pre_llm", "decoder")

Grid = tuple[int, int, int]
"""A patch grid (t, h, w): frames, rows and columns; t is 1 for a picture."""


@dataclass(frozen=True)
class Site:
    """One place where tokens can be removed.

    Attributes:
        stage: `encoder`, `pre_llm` or `decoder`.
        layer: 0-based block index; for `pre_llm` the number of encoder blocks that ran.
        layers: how many layers of that stage are used (L).
    """

    stage: Stage
    layer: int
    layers: int

    @classmethod
    def behind(cls, blocks: int) -> Site:
        """Between an encoder, of which so many blocks ran, and the LLM."""
        return cls("pre_llm", blocks, blocks)

    def __str__(self) -> str:
        return self.stage if self.stage == "pre_llm" else f"{self.stage}[{self.layer}]"
