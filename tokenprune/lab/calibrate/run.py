"""Looking for a budget: every budget that is tried is a cell of a study, and recorded."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenprune.engine.attach import attach
from tokenprune.errors import BudgetError, DataError
from tokenprune.errors.words import counted
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.calibrate.budgets import Budgets
from tokenprune.lab.calibrate.goals import Goal, Within
from tokenprune.lab.calibrate.steps import Steps
from tokenprune.lab.clips import on_clips
from tokenprune.lab.judge.result import PlanRun, Result
from tokenprune.lab.measure.checks import unpruned_tokens
from tokenprune.lab.measure.search import border, most_asked, widest
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.telling import Say, Tell
from tokenprune.lab.studies.building import build_task
from tokenprune.lab.studies.execute import loaded_model, model_of
from tokenprune.lab.studies.load import DENSE
from tokenprune.lab.studies.model import ModelEntry, PlanEntry, Study, TaskEntry
from tokenprune.lab.studies.run import run_study
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import summarise
from tokenprune.plan import Plan
from tokenprune.plan.dump import plan_data


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


def calibrate(
    asked: Target,
    budgets: Budgets,
    goal: Goal,
    *,
    progress: Tell | None = None,
    say: Say | None = None,
) -> Calibration:
    """Find the border budget of a plan, among those that the model can serve.

    Args:
        asked: model, samples and where records are kept.
        budgets: plan and stage; the plan's own budget has to fit the model.
        goal: what has to hold.
        progress: told (budgets tried, budgets at most, what runs).
        say: given a line about what every budget came to, and how long the others may take.

    Raises:
        TokenpruneError: bad input, or a plan that doesn't fit the model.
        DataError: a budget's run failed, another run is working on it, the samples are too few for
            the goal, or a loss is asked about and the dense model has no right answer to lose.
    """
    steps = Steps(goal, progress, say)
    loaded = loaded_model(model_of(asked.model, asked.task), asked.model)
    if asked.task.video and isinstance(loaded, LoadedMllm):
        budgets = replace(budgets, plan=on_clips(budgets.plan, loaded))  # as it is measured
    trial = _Trial(asked, budgets, steps)
    model: Any = loaded.model

    def serves(number: int) -> bool:
        try:
            attach(model, budgets.at(number)).detach()
        except BudgetError:
            return False
        return True

    attach(model, budgets.plan).detach()
    if goal.batches > 1:
        _check_batches(build_task(asked.task, loaded, trial.study(budgets.own)), goal.batches)
    patches = unpruned_tokens(trial.result(budgets.own).run.tokens)
    low, high = widest(serves, budgets.own, 1, budgets.most(patches))

    def holds(number: int) -> bool:
        return goal.holds(trial.result(number))

    # the plan's own budget is measured already, and the border lies on one side of it
    if holds(budgets.own) == goal.smallest:
        high = budgets.own
    else:
        low = budgets.own
    steps.expect(most_asked(low, high))
    found = border(holds, low, high, smallest=goal.smallest)
    tried = {number: trial.tried[number] for number in sorted(trial.tried)}
    return Calibration(goal, tried, budgets, found)


@dataclass
class _Trial:
    """The budgets tried so far."""

    asked: Target
    budgets: Budgets
    steps: Steps
    tried: dict[int, Result] = field(default_factory=dict)

    def result(self, number: int) -> Result:
        """The result of one budget, from its record if there is one."""
        if number not in self.tried:
            self.tried[number] = self._run(number)
        return self.tried[number]

    def study(self, number: int) -> Study:
        """The study of one budget."""
        asked, shown = self.asked, self.budgets.shown(number)
        name = f"keep {shown.strip('{}')}"  # braces would be a template
        plan = plan_data(self.budgets.at(number))
        return Study(
            name="calibration",
            out=asked.records,
            models=(asked.model,),
            tasks=(asked.task,),
            plans=(PlanEntry(plan=plan, name=name),),
            batch_size=asked.batch_size,
            seed=asked.seed,
            add_random=False,
        )

    def _run(self, number: int) -> Result:
        shown = self.budgets.shown(number)
        self.steps.begins(shown)
        done = run_study(self.study(number))
        for label, reason in done.failed.items():
            raise DataError(f"the run failed: {reason}", where=label)
        for label in done.elsewhere:
            raise DataError("another run is working on it.", where=label, remedy="Wait for it.")
        dense, result = _judged(done.records)
        if isinstance(self.steps.goal, Within):
            _check_right(dense.run)
        self.steps.ended(shown, result, len(done.ran))
        return result


def _check_batches(task: Task, least: int) -> None:
    """Refuse samples of which no result could be sure, before any is measured.

    Raises:
        DataError: they make too few batches.
    """
    samples, count = len(task.questions), len(task.batches)
    if count >= least:
        return
    made = "one batch" if count == 1 else f"{count} batches"
    size = (samples - 1) // (least - 1)
    raise DataError(
        f"{samples} samples in batches of {task.batch_size} make {made}, and a 95 % interval of "
        f"times needs {least} or more.",
        where="--time with --sure",
        remedy=f"Use --batch-size {size} or smaller, more samples, or leave --sure away."
        if size
        else f"Ask {least} samples or more, or leave --sure away.",
    )


def _check_right(dense: PlanRun) -> None:
    """Refuse to look for a loss where there is none to see: every budget would hold.

    Raises:
        DataError: the dense model answers nothing right.
    """
    if dense.right.any():
        return
    samples = counted(len(dense.right), "sample")
    raise DataError(
        f"the dense model answers nothing right on {samples}, so no keep can lose anything. Its "
        f"first answer: {reprlib.repr(dense.answers[0])}.",
        where="--within",
        remedy="Only an answer that equals the right one counts: ask for answers as short as the "
        "data's, correct the data, or use --flops or --time.",
    )


def _judged(records: list[Record]) -> tuple[Result, Result]:
    """The rows of two records, of dense and of the plan."""
    (group,) = summarise(records)
    dense, row = sorted(group.rows, key=lambda row: row.name != DENSE)
    return dense, row
