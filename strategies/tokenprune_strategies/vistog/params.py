"""The parameters of `vistog`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from tokenprune_strategies.shared import learned
from tokenprune_strategies.shared.learned import LearnedParams


class VisToGParams(LearnedParams):
    """Parameters of `vistog`: a checkpoint, or the shape and the seed of an untrained start."""

    SHAPE: ClassVar[tuple[str, ...]] = ("groups", "dim")
    NEEDS: ClassVar[tuple[str, ...]] = ("dim",)

    groups: PositiveInt = Field(
        default=64,
        description="G: number of semantic tokens, and so of kept tokens.",
    )
    dim: PositiveInt | None = Field(
        default=None,
        description="Width of the vision encoder; needed without a checkpoint.",
    )
    tau: PositiveFloat = Field(
        default=1.0, description="Temperature of the Gumbel softmax in training."
    )
    eps: PositiveFloat = Field(
        default=1.0, description="Added to each group's count, so that empty groups stay finite."
    )


OURS: dict[str, str] = {
    "groups": "64 is the smallest reported setting; the paper's others are unknown",
    "tau": "GroupViT's; the paper's is unknown",
    "eps": "GroupViT's; the paper's is unknown",
    **learned.OURS,
}
