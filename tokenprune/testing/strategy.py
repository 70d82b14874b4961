"""Hold a strategy to the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenprune.errors import PlanError, PluginError
from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import PruningStrategy, places
from tokenprune.interface.trainable import TrainableStrategy, untrained_params
from tokenprune.plugins.hookspecs import STRATEGIES
from tokenprune.plugins.matrix import site_of
from tokenprune.plugins.strategies import strategy_params
from tokenprune.testing import agreement, answers, models
from tokenprune.testing.record import Report, Row, demand_of
from tokenprune.testing.subject import KEEP, MODEL, WIDTH, Subject

Check = Callable[[Subject], str]
CHECKS: Mapping[str, Check] = {
    "signals": answers.signals,
    "in place": answers.in_place,
    "answers": answers.counts,
    "later": answers.later,
    "odd sizes": answers.odd,
    "video": answers.video,
    "one token": answers.one_token,
    "all equal": answers.all_equal,
    "half precision": answers.half_precision,
    "keep all": answers.keep_all,
    "trace": answers.trace,
    "no wait": answers.no_wait,
    "repeats": agreement.repeats,
    "seeds": agreement.seeds,
    "batch": agreement.batch,
    "order": agreement.order,
    "ties": agreement.ties,
    "saved": agreement.saved,
    "padding": models.padding,
    "beams": models.beams,
}
"""Demands by key; the first line of each check's docstring is the demand in words."""

FIRST = ("in place", "answers")
"""If one of these fails, what those behind it would say is no news."""
INSIDE = ("padding", "beams")
"""Demands that need a model."""


def check_strategy(
    kind: type[PruningStrategy[Any]],
    params: Mapping[str, Any] | None = None,
    *,
    stages: Sequence[Stage] | None = None,
    seed: int = 0,
    inside: bool = True,
) -> Report:
    """Hold a strategy to what every strategy must fulfil.

    It is asked about made-up tokens of many counts, grids and dtypes, with its budgets and signals,
    and the engine's own checks read every answer. Where a model library is installed, it also runs
    inside tiny models with random weights.

    Args:
        kind: the strategy's class; it need not be registered.
        params: its parameters, as a plan would give them. Learned strategies get random weights.
        stages: where; default: wherever it may stand.
        seed: of the tokens.
        inside: try it inside tiny models, too.

    Returns:
        One row for each demand and stage. `require()` raises if a row fails.

    Raises:
        PlanError: it can't be built from these parameters, or can't stand at a stage.
        PluginError: a plugin couldn't register it.
    """
    refuse_unregistered(kind)
    given = dict(params or {})
    made = untrained_params(kind, MODEL, KEEP)
    strategy = kind(strategy_params(kind, made | given, where=f"strategy '{kind.name}'"))
    if isinstance(strategy, TrainableStrategy):
        strategy.train(False)
    wanted = places(kind) if stages is None else tuple(stages)
    _refuse_foreign(kind, wanted)
    subjects = [
        Subject(kind, strategy, given, made, site_of(kind, at), WIDTH, seed) for at in wanted
    ]
    return Report(kind.name, [row for subject in subjects for row in _rows(subject, inside)])


def refuse_unregistered(kind: type[PruningStrategy[Any]]) -> None:
    """Refuse what the host would refuse of a plugin.

    Raises:
        PluginError: with what is wrong.
    """
    wrong = STRATEGIES.check(kind)
    if wrong:
        raise PluginError(
            f"{getattr(kind, '__qualname__', kind)} can't be registered: {wrong}.",
            where="strategy",
            remedy="Such a plugin is refused, so no plan could name it.",
        )


def _refuse_foreign(kind: type[PruningStrategy[Any]], stages: Sequence[Stage]) -> None:
    for at in stages:
        if at not in places(kind):
            raise PlanError(
                f"'{kind.name}' can't stand at '{at}'.",
                where="stages",
                remedy=f"It stands at: {', '.join(places(kind))}.",
            )


def _rows(subject: Subject, inside: bool) -> list[Row]:
    rows: list[Row] = []
    for key, check in CHECKS.items():
        wrong = [row.key for row in rows if row.key in FIRST and row.status == "fail"]
        note = f"not tried, since '{wrong[0]}' fails" if wrong else ""
        if key in INSIDE and not inside:
            note = "not tried without models"
        if note:
            rows.append(Row(key, subject.at, demand_of(check), "does not apply", note))
        else:
            rows.append(Row.of(key, subject.at, check, subject, subject.kind))
    return rows
