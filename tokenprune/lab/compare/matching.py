"""Equal budgets: what every method has to keep to cost as much as the baseline at a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from tokenprune.engine.attach import attach
from tokenprune.engine.conditions import Checks
from tokenprune.errors import BudgetError
from tokenprune.interface.sites import Stage
from tokenprune.lab.data.pictures import spread
from tokenprune.lab.judge.result import BASELINE
from tokenprune.lab.measure.checks import unpruned_tokens
from tokenprune.lab.measure.entries import Entry, Strategies, strategy_entry
from tokenprune.lab.measure.preparing import Preparing
from tokenprune.lab.measure.search import border, widest
from tokenprune.lab.measure.task import Task
from tokenprune.ops.flops import count_flops
from tokenprune.plan import Average, PerTile, Plan

#: What budgets are made equal in, and how the rows' budgets are then described.
MATCHES: Mapping[str, str] = {
    "tokens": "mean over the LLM's layers",
    "flops": f"solved: as many FLOPs as {BASELINE} with so many tokens before the LLM",
    "time": f"solved: as much time as {BASELINE} with so many tokens before the LLM",
    "stage": "",
}

#: Samples, spread evenly, and repetitions of a cost that is solved for; their median counts (ours).
SAMPLES, REPEATS = 4, 5


def equal_tokens(entry: Entry, tiles: float = 1.0) -> Entry:
    """The row with a budget that counts tokens in the mean over the LLM's layers.

    Before the LLM that is what a budget counts already. A strategy that restores its tokens keeps
    its budget, and its meaning says so: it hands on all tokens, whatever it keeps inside. Inside an
    encoder that sees an image in `tiles`, a budget is divided among them, rounded down.
    """
    keep = _number(entry)
    if keep is not None and entry.plan.stages[0].at == "encoder" and tiles != 1:
        each = PerTile(per_tile=max(1, int(keep // tiles)))
        return replace(entry, plan=_with(entry.plan, each), budget=str(keep))
    if keep is None or entry.plan.stages[0].at != "decoder":
        return entry
    name = f"{entry.name}-{keep}"
    matched = _with(entry.plan, Average(average=keep)).model_copy(update={"name": name})
    return replace(entry, plan=matched, meaning=MATCHES["tokens"], budget=str(keep))


def equal_cost(
    task: Task, entries: Sequence[Entry], how: str, strategies: Strategies
) -> tuple[list[Entry], list[str]]:
    """The rows with the largest budgets that cost no more than the baseline at theirs.

    Rows without a number of tokens as their only budget stay as they are.

    Args:
        task: samples and model; some samples are run.
        entries: the rows; each fits the model.
        how: what is made equal: `flops` or `time`.
        strategies: by name, the baseline among them.

    Returns:
        The rows, and sentences about those that cost more with their smallest budget.
    """
    costs = _Costs(task, how)
    found: list[Entry] = []
    left_out: list[str] = []
    for entry in entries:
        keep = _number(entry)
        if keep is None:
            found.append(entry)
            continue
        goal = costs.of(_baseline(task, strategies, entry, keep))
        number = _solved(costs, entry, goal)
        if number is None:
            left_out.append(
                f"{entry.name} at {keep} is left out: with its smallest budget it costs more {how} "
                f"than {BASELINE} there."
            )
            continue
        plan = _with(entry.plan, number).model_copy(update={"name": f"{entry.name}-{number}"})
        found.append(replace(entry, plan=plan, meaning=MATCHES[how], budget=str(keep)))
    return found, left_out


def _solved(costs: _Costs, entry: Entry, goal: float) -> int | None:
    """The largest budget of a row whose cost isn't above the goal; the baseline keeps its own."""
    keep = _number(entry)
    assert keep is not None
    if entry.strategy == BASELINE and entry.plan.stages[0].at != "decoder":
        return keep

    def serves(number: int) -> bool:
        try:
            attach(costs.task.model, _with(entry.plan, number)).detach()
        except BudgetError:
            return False
        return True

    def holds(number: int) -> bool:
        try:
            return costs.of(_with(entry.plan, number)) <= goal
        except BudgetError:  # more than a small picture has
            return False

    low, high = widest(serves, keep, 1, costs.patches)
    return border(holds, low, high, smallest=False)


@dataclass
class _Costs:
    """Costs of plans on some samples, spread evenly over all, each measured once."""

    task: Task
    how: str
    known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = spread(range(len(self.task.questions)), SAMPLES)
        self._inputs = [ready.inputs for ready in Preparing(self.task.only(numbers)).batches()]
        with torch.no_grad(), attach(self.task.model, Plan()) as handle:
            self._call()
            self.patches = round(unpruned_tokens(handle.meter.tokens))

    def _call(self) -> None:
        for inputs in self._inputs:
            self.task.call(inputs)

    def of(self, plan: Plan) -> float:
        """FLOPs, or seconds as a share of the dense model's in turns with it."""
        key = plan.model_dump_json(exclude={"name"})
        if key not in self.known:
            with torch.no_grad():
                self.known[key] = self._flops(plan) if self.how == "flops" else self._time(plan)
        return self.known[key]

    def _flops(self, plan: Plan) -> float:
        with attach(self.task.model, plan), count_flops() as counter:
            self._call()
        return float(counter.total)

    def _time(self, plan: Plan) -> float:
        checks = Checks()
        self._seconds(plan, checks)  # what is loaded, compiled or checked at the first call
        return median(self._seconds(plan, checks) / self._seconds(Plan()) for _ in range(REPEATS))

    def _seconds(self, plan: Plan, checks: Checks | None = None) -> float:
        cuda = next(self.task.model.parameters()).is_cuda
        wait: Callable[[], Any] = torch.cuda.synchronize if cuda else _nothing
        with attach(self.task.model, plan, checks=checks or Checks()):
            wait()
            start = time.perf_counter()
            self._call()
            wait()
            return time.perf_counter() - start


def _nothing() -> None:
    """A CPU has nothing to wait for."""


def _baseline(task: Task, strategies: Strategies, entry: Entry, keep: int) -> Plan:
    """What a budget means: the baseline before the LLM, or inside an encoder without an LLM."""
    kind = strategies[BASELINE]
    at: Stage = "pre_llm" if task.kind == "mllm" else "encoder"
    row = strategy_entry(kind, keep, at, seed=entry.plan.seed)
    return row.plan.model_copy(update={"images": entry.plan.images})


def _number(entry: Entry) -> int | None:
    """The budget, if it is a number of tokens and the plan has one stage; else None."""
    stages = entry.plan.stages
    keep = stages[0].keep if len(stages) == 1 else None
    return keep if isinstance(keep, int) else None


def _with(plan: Plan, keep: int | Average | PerTile) -> Plan:
    return plan.model_copy(update={"stages": (plan.stages[0].model_copy(update={"keep": keep}),)})
