"""The parameters of `covipal_style`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from tokenprune_strategies.shared import learned
from tokenprune_strategies.shared.learned import LearnedParams

Variant = Literal["transformer", "mlp"]
Queries = Literal["text", "all"]


class CoViPALParams(LearnedParams):
    """Parameters of `covipal_style`: a checkpoint, or the shape and the seed of a fresh start."""

    SHAPE: ClassVar[tuple[str, ...]] = ("dim", "variant", "width", "depth", "heads")
    NEEDS: ClassVar[tuple[str, ...]] = ("dim",)

    dim: PositiveInt | None = Field(
        default=None, description="Width of the LLM; needed with init_seed."
    )
    variant: Variant = Field(
        default="transformer",
        description="transformer: visual and text tokens read one another; mlp: every visual token "
        "beside the mean of the text, cheaper.",
    )
    width: PositiveInt = Field(default=512, description="Width inside the module.")
    depth: int = Field(default=2, ge=1, le=64, description="Layers of the transformer.")
    heads: PositiveInt = Field(
        default=8, description="Attention heads of the transformer; they divide width."
    )

    per_image: bool = Field(
        default=False,
        description="With several images or frames: choose the best of each, not of the sample.",
    )
    queries: Queries = Field(
        default="text",
        description="In training, whose attention the first phase learns: of the text behind the "
        "image, or of all tokens of the prompt.",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.variant == "transformer" and self.width % self.heads:
            raise ValueError(f"'heads' ({self.heads}) must divide 'width' ({self.width})")
        return self


UNKNOWN = "the paper says 'small classifier'; its structure could not be read"
OURS: dict[str, str] = {
    "variant": UNKNOWN,
    "width": UNKNOWN,
    "depth": UNKNOWN,
    "heads": UNKNOWN,
    "per_image": "which of both the paper does could not be read",
    "queries": "the sources print one range of queries and describe another",
    **learned.OURS,
}
