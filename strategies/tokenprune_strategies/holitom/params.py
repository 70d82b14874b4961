"""The parameters of `holitom`."""

from __future__ import annotations

from pydantic import Field

from tokenprune.interface.strategy import StrategyParams
from tokenprune_strategies.shared.saliency import Attention


class HoliTomParams(StrategyParams):
    """Parameters of `holitom`, all of its stage before the LLM."""

    score: Attention = Field(
        default="received",
        description="What a frame's tokens are ranked by: the attention that a token receives from "
        "all patches, or the class token's.",
    )
    tau: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        description="Cosine between frames above which a place is static; the paper has 0.65 at a "
        "budget of 10 %.",
    )
    contextual: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of a frame's budget for clusters of what isn't ranked high; with 1, "
        "attention isn't read.",
    )
