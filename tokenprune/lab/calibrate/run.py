"""Looking for a budget: every budget that is tried is a cell of a study, and recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprune.engine.attach import attach
from tokenprune.errors import BudgetError, DataError
from tokenprune.lab.calibrate.budgets import Budgets
from tokenprune.lab.calibrate.goals import Goal
from tokenprune.lab.judge.result import Result
from tokenprune.lab.measure.checks import unpruned_tokens
from tokenprune.lab.measure.search import border, widest
from tokenprune.lab.studies.execute import loaded_model, model_place
from tokenprune.lab.studies.load import DENSE
from tokenprune.lab.studies.model import ModelEntry, PlanEntry, Study, TaskEntry
from tokenprune.lab.studies.run import run_study
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import summarise
from tokenprune.plan import Plan
from tokenprune.plan.dump import plan_data

#: Told the budget that is tried, as it is shown.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """What budgets are tried on.

    Attributes:
        model: the model.
        task: the samples.
        records: folder of the records; what is recorded there isn't run again.
        batch_size: samples a batch.
        seed: of plans that name none, and of resampling.
    """

    model: ModelEntry
    task: TaskEntry
    records: Path
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        goal: what was to hold.
        tried: results by number, in the order of the numbers.
        budgets: what the numbers stand for.
        chosen: the number that was found; None if none holds.
    """

    goal: Goal
    tried: dict[int, Result]
    budgets: Budgets
    chosen: int | None

    @property
    def plan(self) -> Plan | None:
        """The plan with the budget that was found; its name, perhaps of the old one, says so."""
        if self.chosen is None:
            return None
        found = self.budgets.at(self.chosen)
        name = f"{found.name}, calibrated" if found.name else found.name
        return found.model_copy(update={"name": name})


def calibrate(asked: Target, budgets: Budgets, goal: Goal, tell: Tell | None = None) -> Calibration:
    """Find the border budget of a plan, among those that the model can serve.

    Args:
        asked: model, samples and where records are kept.
        budgets: plan and stage; the plan's own budget has to fit the model.
        goal: what has to hold.
        tell: told every budget before it is tried.

    Raises:
        TokenpruneError: bad input, or a plan that doesn't fit the model.
        DataError: a budget's run failed, or another run is working on it.
    """
    trial = _Trial(asked, budgets, tell)
    model: Any = loaded_model(model_place(asked.model, asked.task), asked.model).model

    def serves(number: int) -> bool:
        try:
            attach(model, budgets.at(number)).detach()
        except BudgetError:
            return False
        return True

    attach(model, budgets.plan).detach()
    patches = unpruned_tokens(trial.result(budgets.own).run.tokens)
    low, high = widest(serves, budgets.own, 1, budgets.most(patches))
    found = border(
        lambda number: goal.holds(trial.result(number)), low, high, smallest=goal.smallest
    )
    tried = {number: trial.tried[number] for number in sorted(trial.tried)}
    return Calibration(goal, tried, budgets, found)


@dataclass
class _Trial:
    """The budgets tried so far."""

    asked: Target
    budgets: Budgets
    tell: Tell | None
    tried: dict[int, Result] = field(default_factory=dict)

    def result(self, number: int) -> Result:
        """The result of one budget, from its record if there is one."""
        if number not in self.tried:
            self.tried[number] = self._run(number)
        return self.tried[number]

    def _run(self, number: int) -> Result:
        asked, shown = self.asked, self.budgets.shown(number)
        if self.tell is not None:
            self.tell(shown)
        name = f"keep {shown.strip('{}')}"  # braces would be a template
        plan = plan_data(self.budgets.at(number))
        study = Study(
            name="calibration",
            out=asked.records,
            models=(asked.model,),
            tasks=(asked.task,),
            plans=(PlanEntry(plan=plan, name=name),),
            batch_size=asked.batch_size,
            seed=asked.seed,
            add_random=False,
        )
        done = run_study(study)
        for label, reason in done.failed.items():
            raise DataError(f"the run failed: {reason}", where=label)
        for label in done.elsewhere:
            raise DataError("another run is working on it.", where=label, remedy="Wait for it.")
        return _judged(done.records, asked.seed)


def _judged(records: list[Record], seed: int) -> Result:
    """The plan's row of two records, of dense and of the plan."""
    (group,) = summarise(records, seed)
    (row,) = (row for row in group.rows if row.name != DENSE)
    return row
