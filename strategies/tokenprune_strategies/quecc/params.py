"""The parameters of `quecc`."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from tokenprune_strategies.shared import learned
from tokenprune_strategies.shared.learned import LearnedParams

Depth = Annotated[float, Field(gt=0, le=1)]


class QueCCParams(LearnedParams):
    """Parameters of `quecc`: a checkpoint, or the shape and the seed of an untrained start."""

    SHAPE: ClassVar[tuple[str, ...]] = ("stride", "dim", "text_dim", "levels", "heads")
    NEEDS: ClassVar[tuple[str, ...]] = ("dim", "text_dim")

    stride: int = Field(
        default=4,
        ge=2,
        description="s: side of the windows that become one token each; divides the grid.",
    )
    dim: PositiveInt | None = Field(
        default=None, description="C: width of the vision encoder; needed with init_seed."
    )
    text_dim: PositiveInt | None = Field(
        default=None, description="Width of the LLM; needed with init_seed."
    )
    levels: tuple[Depth, ...] = Field(
        default=(0.5, 0.67, 0.92, 0.96),
        min_length=1,
        max_length=64,
        description="Depths in the used part of the encoder whose outputs make keys and values.",
    )
    heads: PositiveInt = Field(default=8, description="Attention heads; they divide dim.")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim is not None and self.dim % self.heads:
            raise ValueError(f"'heads' ({self.heads}) must divide 'dim' ({self.dim})")
        return self

    def blocks(self, used: int) -> list[int]:
        """The encoder block of every level, from 0, when `used` blocks feed the projector.

        With the 23 used blocks of CLIP-L in LLaVA the default gives the outputs of blocks 11, 15,
        21 and 22, the hidden-state entries 12, 16, 22 and 23 of the released code. On shallow
        encoders levels may share a block.
        """
        # The tolerance keeps an exact product from being lifted by its rounding.
        return [max(1, math.ceil(level * used - 1e-9)) - 1 for level in self.levels]


OURS: dict[str, str] = {
    "levels": "the entries 12, 16, 22, 23 of the released code as relative depths, for any encoder",
    **learned.OURS,
}
