"""Paired statistics of all runs on the same samples, with dense and with random."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import nan

import numpy as np

from tokenprune.lab.judge.result import PlanRun, Result, Samples
from tokenprune.lab.judge.warnings import warnings_of
from tokenprune.lab.measure.statistics import (
    ENOUGH,
    Array,
    Bootstrap,
    Interval,
    mcnemar,
    rule_of_three,
)
from tokenprune.plan import Plan, positions_of

#: Random is a baseline for plans whose mean number of tokens differs by no more than this (ours).
CLOSE = 0.5

#: What rounding may add to it: token counts are means.
ROUNDING = 1e-9


class Judge:
    """The statistics of runs on the same samples; all intervals come from the same resamples.

    Args:
        samples: what was asked.
        runs: at least one.
        seed: of the resampling.
    """

    def __init__(self, samples: Samples, runs: Sequence[PlanRun], seed: int = 0) -> None:
        self._kinds, self._runs = samples.kinds, runs
        names, self._image = np.unique(np.asarray(samples.images), return_inverse=True)
        self._images = len(names)
        self._boot = Bootstrap(samples.images, seed)
        # a batch of which nothing could be read is missing in the runs that met it
        self._batches = {n: Bootstrap(range(n), seed) for n in {len(run.wall) for run in runs}}
        self._dense = next((run for run in runs if run.dense), None)

    def results(self) -> list[Result]:
        """One a run, in the order of the runs."""
        return [self._result(run) for run in self._runs]

    def _result(self, run: PlanRun) -> Result:
        dense = self._dense
        accuracy = self._boot.mean(run.right)
        difference = self._boot.difference(run.right, dense.right) if dense else None
        others = baselines(run, self._runs)
        versus = self._versus(run, others)
        total = self._time(run)
        return Result(
            run=run,
            accuracy=accuracy,
            retention=self._boot.ratio(run.right, dense.right) if dense else None,
            difference=difference,
            versus_random=versus,
            seeds=len(others),
            mcnemar=_mcnemar(run, dense) if dense else None,
            agreement=_agreement(run.answers, dense.answers) if dense else None,
            by_type=by_type(run.right, self._kinds),
            metrics={name: self._boot.mean(scores) for name, scores in run.scores.items()},
            flops_ratio=run.flops / run.dense_flops if run.dense_flops else float("nan"),
            total=total,
            warnings=warnings_of(run, accuracy, versus, total, self._images),
            images=self._images,
            unseen=self._unseen(run, difference),
        )

    def _time(self, run: PlanRun) -> Interval:
        """Its time as a share of dense; few batches have no interval, a single one least of all."""
        found = self._batches[len(run.wall)].ratio(run.wall, run.dense_wall)
        return found if len(run.wall) >= ENOUGH else Interval(found.value, nan, nan)

    def _unseen(self, run: PlanRun, difference: Interval | None) -> float:
        """The loss that no image shows; resamples of what isn't there don't show it either."""
        if difference is None or self._dense is None:
            return 0.0
        gained = np.bincount(self._image, weights=run.right - self._dense.right)
        shown = bool((gained < 0).any()) and difference.low < difference.high
        return 0.0 if shown else rule_of_three(self._images)

    def _versus(self, run: PlanRun, others: Sequence[PlanRun]) -> Interval | None:
        if not others:
            return None
        return self._boot.difference(run.right, np.mean([one.right for one in others], axis=0))


def baselines(run: PlanRun, among: Sequence[PlanRun]) -> list[PlanRun]:
    """The `random` runs that a run is compared with: one plan, under all of its seeds.

    It is `random` at the same places and budgets, or else the one whose mean number of tokens is
    the nearest, if that differs by half a token or less; with the same position ids either way.
    Dense and `random` itself have none.
    """
    if run.dense or run.baseline:
        return []
    own = positions_of(run.plan)
    random = [one for one in among if one.baseline and positions_of(one.plan) == own]
    same = [one for one in random if _budgets(one.plan) == _budgets(run.plan)]
    distance = {id(one): abs(one.mean_tokens - run.mean_tokens) for one in random}
    close = [one for one in random if distance[id(one)] <= CLOSE + ROUNDING]
    chosen = same or sorted(close, key=lambda one: distance[id(one)])
    # a seed that stands in the runs twice counts once
    seeds = {
        one.plan.seed: one
        for one in reversed(chosen)
        if without_seed(one.plan) == without_seed(chosen[0].plan)
    }
    return [*reversed(seeds.values())]


def without_seed(plan: Plan) -> Plan:
    """A plan but for its seed and its name."""
    return plan.model_copy(update={"seed": 0, "name": None})


def by_type(right: Array | Sequence[float], kinds: Sequence[str]) -> dict[str, float]:
    """Accuracy by question type, over the samples that have one."""
    found: dict[str, list[float]] = defaultdict(list)
    for value, kind in zip(right, kinds, strict=True):
        if kind:
            found[kind].append(float(value))
    return {kind: sum(values) / len(values) for kind, values in sorted(found.items())}


def _budgets(plan: Plan) -> list[tuple[object, ...]]:
    """Where and how much is kept, whoever chooses."""
    return [(stage.at, stage.layer, stage.keep) for stage in plan.stages]


def _mcnemar(run: PlanRun, dense: PlanRun) -> float:
    return mcnemar([*map(bool, run.right)], [*map(bool, dense.right)])


def _agreement(answers: Sequence[str], others: Sequence[str]) -> float:
    same = sum(a == b for a, b in zip(answers, others, strict=True))
    return same / len(answers)
