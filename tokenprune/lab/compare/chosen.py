"""Which strategies a comparison without plans is about: a chosen dozen, a family, or all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenprune.interface.strategy import PruningStrategy
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.judge.result import BASELINE
from tokenprune.lab.measure.entries import Strategies, home
from tokenprune.plugins.hookspecs import STRATEGIES
from tokenprune.plugins.host import host

#: What most papers of the field compare with, of every place and kind (ours).
DOZEN = (
    *("evoprune", "tome", "fopru", "visionzip", "vispruner", "divprune"),
    *("cdpruner", "dart", "fastv", "sparsevlm", "pyramiddrop", "vscan"),
)

#: The distribution that the dozen comes with; strategies of others are the user's own.
OWN = "tokenprune"


def _learned(kind: type[PruningStrategy[Any]]) -> bool:
    return issubclass(kind, TrainableStrategy)


#: Families by name: where a strategy stands in comparisons, and the learned ones.
FAMILIES: Mapping[str, Callable[[type[PruningStrategy[Any]]], bool]] = {
    "encoder": lambda kind: not _learned(kind) and home(kind) == "encoder",
    "pre_llm": lambda kind: not _learned(kind) and home(kind) == "pre_llm",
    "decoder": lambda kind: not _learned(kind) and home(kind) == "decoder",
    "learned": _learned,
}


def chosen(strategies: Strategies, *, every: bool = False, family: str | None = None) -> Strategies:
    """The strategies to compare; the baseline is always among them.

    Args:
        strategies: all that there are, by name.
        every: all of them.
        family: those of one of `FAMILIES` instead.
    """
    if every:
        return strategies
    if family is not None:
        fits = FAMILIES[family]
        mine = {name for name, kind in strategies.items() if fits(kind)}
    else:
        mine = {*DOZEN, *_brought_by_others()}
    return {name: kind for name, kind in strategies.items() if name in mine or name == BASELINE}


def _brought_by_others() -> set[str]:
    """Names of the strategies of other distributions than our own, or registered by hand."""
    return {
        name
        for info in host().infos()
        if info.distribution != OWN
        for name in info.brought.get(STRATEGIES.name, ())
    }
