"""Plans on pictures that a tower sees at their own size, each row of their units a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.grids import EXAMPLES
from tokenprune_adapters.vllm.runs import Runs, ServedRuns
from tokenprune_adapters.vllm.served import (
    cached,
    check_behind,
    check_plan,
    left_of,
    require_some,
)


@dataclass(frozen=True)
class ServedRows(ServedRuns):
    """A plan on a model that shows every row of units as a run.

    Attributes:
        unit: side of the square of pixels that becomes one token.
    """

    unit: int

    def shape(self, runs: Runs) -> tuple[Grid, None]:
        """Units (t, h, w) of a picture, which the tower sees in one piece."""
        return (1, len(runs), runs[0]), None

    def pictures(self) -> list[ServedPicture]:
        """Pictures of some sizes that aren't resized."""
        rows = [
            ServedPicture(
                f"{wide * self.unit} x {high * self.unit}",
                high * wide,
                left_of((1, high, wide), self.plan),
            )
            for high, wide in EXAMPLES
        ]
        return require_some(rows, self.plan, (1, *EXAMPLES[-1]))


def mistral3(config: Any, plan: Plan) -> ServedRows:
    """The plan on a Mistral 3, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
        UnsupportedModelError: features that vLLM doesn't read as transformers does.
    """
    check_plan(plan, "compact")
    check_behind(plan)
    if not isinstance(config.vision_feature_layer, int):
        raise UnsupportedModelError(
            "vLLM doesn't read features of several layers for this family.",
            where="config.vision_feature_layer",
            remedy="Serve a model with one feature layer.",
        )
    return ServedRows(
        plan, cached(config), config.vision_config.patch_size * config.spatial_merge_size
    )
