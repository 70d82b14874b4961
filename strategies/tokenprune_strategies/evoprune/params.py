"""The parameters of `evoprune`, and why those that the paper leaves open are as they are."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from tokenprune.interface.strategy import StrategyParams


class EvoPruneParams(StrategyParams):
    """Parameters of `evoprune`; only `critical_token_ratio` has a default from the paper."""

    critical_token_ratio: float = Field(
        default=0.25, ge=0, le=1, description="Share of the tokens that no merge may touch (CTR)."
    )
    attention: bool = Field(
        default=True, description="Protect important tokens; off for the paper's ablation."
    )
    importance: Literal["received", "cls"] = Field(
        default="received",
        description="What makes a token important: the attention it receives from all patches, or "
        "from the class token.",
    )
    importance_per: Literal["token", "patch"] = Field(
        default="token",
        description="Importance of a merged token as a whole, or divided by the patches that it "
        "stands for. With proportional attention a token gets attention for its size.",
    )
    protect: Literal["step", "forever"] = Field(
        default="step",
        description="Whether a step protects the most important tokens anew, or first those that "
        "earlier steps protected.",
    )
    diversity_weight: float = Field(
        default=1.0,
        ge=0,
        description="Lambda: how strongly tokens of sparse regions are spared; 0 is the paper's "
        "ablation without diversity.",
    )
    neighbours: int = Field(
        default=8, ge=1, description="K: nearest neighbours that make up the local density."
    )
    tau: PositiveFloat | Literal["auto"] = Field(
        default=1.0,
        description="Width of the density kernel on normalised features; `auto` takes the mean "
        "squared distance to the neighbours, image by image.",
    )
    metric: Literal["hidden", "keys"] = Field(
        default="hidden",
        description="What similarity and density are measured on: hidden states after attention, "
        "or attention keys averaged over heads.",
    )
    similarity: Literal["halved", "plain"] = Field(
        default="plain",
        description="`halved` is (1 + cos) / 2; `plain` is the cosine, whose negative values a "
        "diversity factor would reorder.",
    )
    partition: Literal["unprotected", "all"] = Field(
        default="unprotected",
        description="Which tokens are split into even and odd: the unprotected ones, or all of "
        "them; then pairs with protected tokens come last, and only where the count needs them.",
    )
    size_weighted: bool = Field(
        default=True,
        description="Average merged tokens by the patches they stand for; off weighs all alike, "
        "which no longer conserves the sum of features.",
    )
    proportional_attention: bool = Field(
        default=True,
        description="Add the logarithm of a token's size to its logits as a key in later blocks.",
    )
    temporal: bool = Field(
        default=False,
        description="Ours, beyond the paper: tokens of a video (`images: frames`) may also merge "
        "into those of the frame before or after. Every frame still gives up equally many.",
    )

    @model_validator(mode="after")
    def _within_frames(self) -> Self:
        if self.temporal and self.protect == "forever":
            raise ValueError(
                "'protect: forever' is for merging within frames: leave 'temporal' off"
            )
        return self


OURS: dict[str, str] = {
    "importance": "the paper says 'attention received'; its formula, read literally, is a constant",
    "importance_per": "the paper has no attention that grows with size; measured, per patch is no "
    "better",
    "protect": "the paper preserves protected tokens in later stages, which can be read either "
    "way; measured, for good is worse",
    "diversity_weight": "the paper names lambda but gives no value",
    "neighbours": "the paper names K but gives no value",
    "tau": "the paper gives no value; ours is for L2-normalised features",
    "metric": "the paper says token embeddings; ours are the hidden states after attention",
    "similarity": "the paper leaves squashing into 0..1 open; measured, the plain cosine was "
    "better",
    "partition": "the paper splits all tokens, which can leave too few pairs to merge",
    "size_weighted": "the paper doesn't say how merged tokens are averaged; ours is ToMe's mean",
    "proportional_attention": "the paper doesn't mention it; on because it was measured to help",
    "temporal": "our extension, off by default: the paper merges within frames and names merging "
    "over time as future work",
}
