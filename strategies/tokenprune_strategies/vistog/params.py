"""The parameters of `vistog`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from tokenprune.strategy import StrategyParams


class VisToGParams(StrategyParams):
    """Parameters of `vistog`: a checkpoint, or the shape and the seed of an untrained start."""

    checkpoint: Path | None = Field(
        default=None, description="Trained weights (safetensors), written by save_checkpoint()."
    )
    init_seed: int | None = Field(
        default=None,
        ge=0,
        description="Start from random weights of this seed, for training; not with a checkpoint.",
    )
    groups: PositiveInt | None = Field(
        default=None,
        description="G: number of semantic tokens, and so of kept tokens; 64 without a checkpoint.",
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

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.checkpoint is not None and self.init_seed is not None:
            raise ValueError("give either 'checkpoint' or 'init_seed', not both")
        if self.init_seed is not None and self.dim is None:
            raise ValueError("'init_seed' needs 'dim', the width of the vision encoder")
        return self


OURS: dict[str, str] = {
    "groups": "64 is the smallest reported setting; the paper's others are unknown",
    "tau": "GroupViT's; the paper's is unknown",
    "eps": "GroupViT's; the paper's is unknown",
}
