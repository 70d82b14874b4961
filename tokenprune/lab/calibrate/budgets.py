"""The budgets that a plan's stage can be given, as whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.errors import PlanError
from tokenprune.plan import Average, PerTile, Plan, Total

#: Steps of a budget that is a ratio (ours).
HUNDREDTHS = 100


@dataclass(frozen=True)
class Budgets:
    """A plan with one budget that is looked for; it stays the kind that the plan has.

    Attributes:
        plan: the plan as it was given.
        stage: the stage, from 0, whose `keep` is looked for.
    """

    plan: Plan
    stage: int

    @property
    def own(self) -> int:
        """The number that stands for the plan's own budget, rounded."""
        keep = self.plan.stages[self.stage].keep
        if isinstance(keep, Average):
            return max(1, round(keep.average))
        if isinstance(keep, PerTile):
            return keep.per_tile
        assert isinstance(keep, int | float)
        return max(1, round(keep * HUNDREDTHS)) if isinstance(keep, float) else keep

    def most(self, patches: float) -> int:
        """The greatest number.

        Args:
            patches: visual tokens of an unpruned image.
        """
        ratio = isinstance(self.plan.stages[self.stage].keep, float)
        return HUNDREDTHS if ratio else max(1, round(patches))

    def at(self, number: int) -> Plan:
        """The plan with another budget."""
        stage = self.plan.stages[self.stage]
        keep: int | float | Average | PerTile = number
        if isinstance(stage.keep, Average):
            keep = Average(average=number)
        elif isinstance(stage.keep, PerTile):
            keep = PerTile(per_tile=number)
        elif isinstance(stage.keep, float):
            keep = number / HUNDREDTHS
        changed = stage.model_copy(update={"keep": keep})
        stages = (*self.plan.stages[: self.stage], changed, *self.plan.stages[self.stage + 1 :])
        return self.plan.model_copy(update={"stages": stages})

    def shown(self, number: int) -> str:
        """A number as the plan would write it."""
        keep = self.at(number).stages[self.stage].keep
        return f"{keep:g}" if isinstance(keep, int | float) else str(keep)


def budgets_of(plan: Plan, stage: int | None) -> Budgets:
    """The budget of a plan that is looked for.

    Args:
        plan: the plan.
        stage: which stage, from 0; None for the only one with a budget.

    Raises:
        PlanError: there is no such stage, it has no budget, it is a total over a prompt's images,
            or the choice isn't clear.
    """
    given = [place for place, one in enumerate(plan.stages) if one.keep is not None]
    where = plan.name or "plan"
    if stage is None and len(given) != 1:
        raise PlanError(
            f"{len(given)} stages of the plan have a budget, and one is looked for.",
            where=where,
            remedy="Write 'keep' into one of the stages."
            if not given
            else f"Say which with --stage: {', '.join(map(str, given))}.",
        )
    chosen = given[0] if stage is None else stage
    if chosen not in given:
        raise PlanError(
            f"the plan has no stage {chosen} with a budget.",
            where=f"{where}, --stage",
            remedy=f"Stages with a budget: {', '.join(map(str, given)) or 'none'}.",
        )
    if isinstance(plan.stages[chosen].keep, Total):
        raise PlanError(
            "a total over the images of a prompt has no greatest number to look up to.",
            where=f"{where}, stages.{chosen}.keep",
            remedy="Write tokens per image, {per_tile: 64}, a ratio or {average: 192}.",
        )
    return Budgets(plan, chosen)
