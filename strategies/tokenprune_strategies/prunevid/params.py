"""The parameters of `prunevid`; all but two have the paper's or the code's defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from tokenprune.interface.strategy import StrategyParams


class PruneVidParams(StrategyParams):
    """Parameters of `prunevid`; those of the other stage are ignored."""

    gamma: PositiveFloat = Field(
        default=0.25, le=1, description="`pre_llm`: temporal clusters as a share of the frames."
    )
    tau: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        description="`pre_llm`: mean cosine between the frames of a segment from which on a "
        "location is static.",
    )
    beta: PositiveFloat = Field(
        default=0.5, le=1, description="`pre_llm`: spatial clusters as a share of a group's tokens."
    )
    neighbours: PositiveInt = Field(
        default=7, description="`pre_llm`: k of the density, the token itself included."
    )
    scale: Literal["rms", "raw"] = Field(
        default="rms",
        description="`pre_llm`: measure distances on features divided by their root mean square "
        "over the video, or as they come.",
    )
    untouched: NonNegativeInt = Field(
        default=14, description="`pre_llm`: groups of so many tokens or fewer are not clustered."
    )
    alpha: PositiveFloat = Field(
        default=0.4, le=1, description="`decoder`: share that is kept where the plan has no `keep`."
    )
    scope: Literal["group", "global"] = Field(
        default="group",
        description="`decoder`: rank within every group (the static tokens of a segment, the "
        "others of a frame), as the released code does, or over the whole video, as in the paper.",
    )
    min_keep_per_group: NonNegativeInt = Field(
        default=1,
        description="`decoder`: least number that is kept of every group under `scope: group`.",
    )
    trim_cache: bool = Field(
        default=True,
        description="`decoder`: what is dropped also leaves the KV cache of the layers before.",
    )


OURS: dict[str, str] = {
    "scale": "the released code takes features as they come (raw); where these are large, all "
    "densities but those of the background vanish, and what stands out is merged into it",
    "min_keep_per_group": "the released code has no such floor (0), so it drops groups of one or "
    "two tokens whole",
}
