"""Strategies whose answer is known beforehand, for tests of what the engine does with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens, hookimpl
from tokenprune.tokens import Stage

ANYWHERE: tuple[Stage, ...] = ("pre_llm", "decoder")


class PickParams(StrategyParams):
    index: tuple[int, ...] = (0,)
    text: tuple[int, ...] = ()


class Pick(PruningStrategy[PickParams]):
    """Keep the tokens named."""

    name: ClassVar[str] = "t-pick"
    Params = PickParams
    stages: ClassVar[tuple[Stage, ...]] = ANYWHERE
    prunes_text: ClassVar[bool] = True

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        wanted = self.params.index if tokens.kind == "visual" else self.params.text
        index = torch.tensor(wanted).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(index, tokens.count)


class Ragged(PruningStrategy[StrategyParams]):
    """Keep the first token and those whose first feature is positive."""

    name: ClassVar[str] = "t-ragged"
    stages: ClassVar[tuple[Stage, ...]] = ANYWHERE
    static: ClassVar[bool] = False

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        mask = tokens.hidden[..., 0] > 0
        mask[:, 0] = True
        return Reduction.keep_mask(mask)


class Exit(PruningStrategy[StrategyParams]):
    """Drop all."""

    name: ClassVar[str] = "t-exit"
    stages: ClassVar[tuple[Stage, ...]] = ANYWHERE
    static: ClassVar[bool] = False

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        return Reduction.keep_mask(torch.zeros(tokens.size.shape, dtype=torch.bool))


class Pairs(PruningStrategy[StrategyParams]):
    """Merge every odd token into the one before it."""

    name: ClassVar[str] = "t-pairs"
    stages: ClassVar[tuple[Stage, ...]] = ANYWHERE
    prunes_text: ClassVar[bool] = True  # and breaks that promise

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        odd = torch.arange(1, 2 * budget.remove, 2).expand(tokens.hidden.shape[0], -1)
        return Reduction.merge(odd, odd - 1, tokens.size)


class Spy(PruningStrategy[StrategyParams]):
    """Keep the first tokens, and put what was shown aside."""

    name: ClassVar[str] = "t-spy"
    stages: ClassVar[tuple[Stage, ...]] = ANYWHERE
    prunes_text: ClassVar[bool] = True
    seen: ClassVar[list[Tokens]] = []

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


class Fresh(PruningStrategy[StrategyParams]):
    """Replace all by the mean of equal runs, plus one."""

    name: ClassVar[str] = "t-fresh"
    stages: ClassVar[tuple[Stage, ...]] = ANYWHERE

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        batch, count, width = tokens.hidden.shape
        run = count // budget.keep
        made = tokens.hidden.view(batch, budget.keep, run, width).mean(2) + 1
        slot = (torch.arange(count) // run).expand(batch, -1)
        return Reduction.replace(made, slot, anchor=torch.arange(0, count, run).expand(batch, -1))


class Broken(PruningStrategy[StrategyParams]):
    """Raise."""

    name: ClassVar[str] = "t-broken"
    stages: ClassVar[tuple[Stage, ...]] = ANYWHERE

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        raise ZeroDivisionError("on purpose")


class TestPlugin:
    @hookimpl
    def register_strategies(self, register: Callable[[type[PruningStrategy[Any]]], None]) -> None:
        for strategy in (Pick, Ragged, Exit, Pairs, Spy, Fresh, Broken):
            register(strategy)
