"""Plans on pictures that a tower sees at their own size, each row of their units a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.errors import BudgetError, UnsupportedModelError
from tokenprune.integrations import PrunedPackedEncoder
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.grids import EXAMPLES
from tokenprune_adapters.vllm.inside_rows import inside_rows
from tokenprune_adapters.vllm.runs import Runs, ServedRuns
from tokenprune_adapters.vllm.served import cached, check_behind, check_plan


@dataclass(frozen=True)
class ServedRows(ServedRuns):
    """A plan on a model that shows every row of units as a run.

    Attributes:
        patch: side of a patch in pixels.
        side: rows and columns of patches that become one token.
        inside: the plan in a tower without weights, if it acts inside the tower.
    """

    patch: int
    side: int
    inside: PrunedPackedEncoder | None = None

    def shape(self, runs: Runs) -> tuple[Grid, None]:
        """Units (t, h, w) of a picture, which the tower sees in one piece."""
        return (1, len(runs), runs[0]), None

    def fits(self, runs: Runs, shape: Sequence[int]) -> bool:
        """Whether pixels `[3, h, w]` have a unit for each placeholder."""
        unit = self.patch * self.side
        return tuple(shape[-2:]) == (len(runs) * unit, runs[0] * unit)

    def left(self, runs: Runs) -> int:
        """Tokens that are left of a picture, without the text between them.

        Raises:
            BudgetError: a budget asks for more tokens than the picture has.
        """
        return super().left(runs) if self.inside is None else self.inside.count(self.shape(runs)[0])

    def pictures(self) -> list[ServedPicture]:
        """Pictures of some sizes that aren't resized."""
        unit = self.patch * self.side
        rows = [
            ServedPicture(f"{wide * unit} x {high * unit}", high * wide, self._left([wide] * high))
            for high, wide in EXAMPLES
        ]
        if all(row.left is None for row in rows):
            high, wide = EXAMPLES[-1]
            self.left([wide] * high)  # says why
        return rows

    def _left(self, runs: Runs) -> int | None:
        try:
            return self.left(runs)
        except BudgetError:
            return None


def llava_pixtral(config: Any, plan: Plan) -> ServedRows:
    """The plan on a LLaVA with a tower of Pixtral, each of whose patches is a unit, checked.

    Raises:
        TokenpruneError: as of `mistral3`.
    """
    if config.vision_feature_select_strategy != "full":
        raise UnsupportedModelError(
            f"'{config.vision_feature_select_strategy}' features of a pixtral aren't its patches.",
            where="config.vision_feature_select_strategy",
            remedy="Served is 'full' for this tower.",
        )
    return _rows(config, plan, 1)


def mistral3(config: Any, plan: Plan) -> ServedRows:
    """The plan on a Mistral 3, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        LayerError: a stage names a block that isn't there or isn't read.
        UnsupportedModelError: features that vLLM doesn't read as transformers does.
    """
    return _rows(config, plan, config.spatial_merge_size)


def _rows(config: Any, plan: Plan, side: int) -> ServedRows:
    check_plan(plan, "compact")
    if not isinstance(config.vision_feature_layer, int):
        raise UnsupportedModelError(
            "vLLM doesn't read features of several layers for this family.",
            where="config.vision_feature_layer",
            remedy="Serve a model with one feature layer.",
        )
    inside = inside_rows(config, plan)
    if inside is None:
        check_behind(plan)
    return ServedRows(plan, cached(config), config.vision_config.patch_size, side, inside)
