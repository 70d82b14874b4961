"""The parameters of `dyvte`."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from tokenprune_strategies.shared import learned
from tokenprune_strategies.shared.learned import LearnedParams


class DyVTEParams(LearnedParams):
    """Parameters of `dyvte`: a checkpoint, the shape and the seed of a fresh start, or a layer."""

    SHAPE: ClassVar[tuple[str, ...]] = ("dim", "layers", "width")
    NEEDS: ClassVar[tuple[str, ...]] = ("dim", "layers")

    dim: PositiveInt | None = Field(
        default=None, description="Width of the LLM; needed with init_seed."
    )
    layers: int | None = Field(
        default=None,
        ge=2,
        le=1024,
        description="L: layers of the LLM, with one gate each but the last; needed with init_seed.",
    )
    width: PositiveInt = Field(default=2048, description="Width inside a gate.")
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="Tokens leave if p(exit) is above; 0.5 is the argmax."
    )
    min_layer: int = Field(
        default=0, ge=0, description="The first layer behind which the gates may let tokens leave."
    )
    max_layer: int | None = Field(
        default=None, ge=0, description="The layer behind which all leave at the latest."
    )
    exit_layer: int | None = Field(
        default=None,
        ge=0,
        description="No gates: all leave behind this layer, without a checkpoint.",
    )
    slack: float = Field(
        default=0.0,
        ge=0,
        description="In training: an exit may also cost so much of the answer's loss, in nats; for "
        "models whose loss is near zero, where a ratio of losses says little.",
    )

    @model_validator(mode="after")
    def _one_way_out(self) -> Self:
        learned = self.checkpoint is not None or self.init_seed is not None
        if self.exit_layer is not None and learned:
            raise ValueError("'exit_layer' goes without 'checkpoint' and 'init_seed'")
        if self.max_layer is not None and self.max_layer < self.min_layer:
            raise ValueError(
                f"'max_layer' ({self.max_layer}) lies before 'min_layer' ({self.min_layer})"
            )
        return self


OURS: dict[str, str] = {
    "threshold": "the argmax of the released code as a threshold, to be moved",
    "min_layer": "a knob of ours; 0 is the released behaviour",
    "max_layer": "a knob of ours; none is the released behaviour",
    "slack": "ours; 0 is the released rule",
    "exit_layer": "a fixed exit without training, a stand-in and a baseline",
    **learned.OURS,
}
