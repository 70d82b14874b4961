"""The rows of a comparison: the plans that fit the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attach import attach
from tokenprune.errors import DataError, SignalError, UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm, LoadedModel
from tokenprune.interface.strategy import PruningStrategy
from tokenprune.lab.clips import on_clips
from tokenprune.lab.compare.chosen import chosen
from tokenprune.lab.compare.defaults import Wanted, default_entries, encoder_entries
from tokenprune.lab.compare.keeps import Shown, encoder_keeps, mllm_keeps
from tokenprune.lab.compare.matching import equal_tokens
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.data.question import Question
from tokenprune.lab.judge.result import BASELINE
from tokenprune.lab.measure.entries import Entry, Strategies, plan_entries
from tokenprune.lab.measure.measurement import why
from tokenprune.lab.models import bundled_name
from tokenprune.lab.trained import check_trained_for
from tokenprune.plugins.host import host
from tokenprune.plugins.strategies import strategy_class


def build_entries(
    loaded: LoadedModel, settings: Settings, first: Question
) -> tuple[list[Entry], list[str]]:
    """The rows, and sentences about default ones that don't run on this model.

    Args:
        loaded: the model.
        settings: what to compare.
        first: the first sample, of which budgets are shares where pictures have any size.

    Raises:
        TokenpruneError: one of the user's plans doesn't fit the model, or a budget doesn't:
            the baseline can't keep so many tokens.
    """
    if settings.plans:
        given = plan_entries(settings.plans, settings.keeps, host().strategies)
        for entry in given:
            check_trained_for(loaded, entry.plan)
        return [_on_task(entry, loaded, settings) for entry in given], []
    strategies = compared_strategies(loaded, settings)
    unsaid: list[str] = []
    if isinstance(loaded, LoadedMllm):
        shown = Shown.to(loaded, first)
        wanted, unsaid = _wanted(loaded, settings, shown)
        rows = partial(default_entries, wanted=wanted)
    else:
        shown = Shown(0)
        keeps = settings.keeps or encoder_keeps(loaded)
        rows = partial(encoder_entries, keeps=keeps, seed=settings.seed)
    sound, broken = _describable(strategies, rows)
    entries = [_on_task(entry, loaded, settings) for entry in rows(sound)]
    if settings.match == "tokens":
        entries = [equal_tokens(entry, shown.tiles) for entry in entries]
    found, left_out = _fitting(loaded, entries)
    return found, [*unsaid, *broken, *left_out]


def _on_task(entry: Entry, loaded: LoadedModel, settings: Settings) -> Entry:
    """The row as it runs on the task's samples."""
    if not settings.video or not isinstance(loaded, LoadedMllm):
        return entry
    return replace(entry, plan=on_clips(entry.plan, loaded))


def compared_strategies(loaded: LoadedModel, settings: Settings) -> Strategies:
    """Those that are compared without plans; of an encoder all, few enough can stand in one.

    Raises:
        DataError: a family was asked for that an encoder doesn't have.
    """
    if isinstance(loaded, LoadedMllm):
        return chosen(host().strategies, every=settings.every, family=settings.family)
    if settings.family is not None:
        raise DataError(
            "in an encoder every strategy that can stand there is compared.",
            where="--family",
            remedy="Leave it away, or pass a multimodal LLM.",
        )
    return host().strategies


def _wanted(loaded: LoadedMllm, settings: Settings, shown: Shown) -> tuple[Wanted, list[str]]:
    """What the default rows depend on, and sentences about kinds of rows that can't be."""
    adapter = choose_adapter(loaded.model)
    assert isinstance(adapter, MllmAdapter)
    positions, why_not = settings.positions, adapter.spec().renumbers
    unsaid = []
    if positions == "both" and why_not is not None:
        positions = "original"
        unsaid = [f"rows with renumbered position ids are left out: {why_not}"]
    wanted = Wanted(
        keeps=settings.keeps or mllm_keeps(shown.units, settings.task),
        positions=positions,
        seed=settings.seed,
        video=settings.video,
        trained_for=bundled_name(loaded.name),
        layers=len(adapter.spec().layers),
    )
    return wanted, unsaid


def _describable(
    strategies: Strategies, rows: Callable[[Strategies], list[Entry]]
) -> tuple[Strategies, list[str]]:
    """The strategies that rows can be made of, and sentences about the others.

    What strategies declare is code of plugins too, such as a layer that depends on the depth.
    """
    sound: dict[str, type[PruningStrategy[Any]]] = {}
    left_out = []
    for name, kind in strategies.items():
        try:
            rows({name: kind})
        except Exception as error:
            left_out.append(f"{name} is left out: {why(error, kind)}")
        else:
            sound[name] = kind
    return sound, left_out


def _fitting(loaded: LoadedModel, entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The default rows without those that can't stand on this model, and sentences about these.

    What the baseline can't do is no strategy's fault, such as a budget above the patches: that
    ends everything. Only places that a whole model refuses are left out for the baseline too.
    """
    found: list[Entry] = []
    reasons: dict[str, list[tuple[Entry, str]]] = defaultdict(list)
    for entry in entries:
        try:
            attach(loaded.model, entry.plan).detach()
        except Exception as error:
            refused = isinstance(error, SignalError | UnsupportedModelError)
            if entry.strategy == BASELINE and not refused:
                raise
            kinds = [strategy_class(stage.strategy) for stage in entry.plan.stages]
            reasons[entry.name].append((entry, why(error, *kinds)))
        else:
            found.append(replace(entry, optional=entry.strategy != BASELINE))
    stand = {entry.name for entry in found}
    return found, [_left_out(mine, name in stand) for name, mine in reasons.items()]


def _left_out(refused: Sequence[tuple[Entry, str]], partly: bool) -> str:
    """A sentence about the rows of one strategy, with the reason of the first.

    Args:
        refused: the rows that can't stand, with their reasons.
        partly: whether the strategy stands at other budgets.
    """
    entry, reason = refused[0]
    budgets = f" at {', '.join(one.peers for one, _ in refused)}" if partly else ""
    return f"{entry.name}{budgets} is left out: {reason}"
