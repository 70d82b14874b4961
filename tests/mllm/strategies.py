"""Strategies whose answer is known beforehand, for tests of what the engine does with it."""

from __future__ import annotations

from typing import ClassVar

import torch

from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site


class PickParams(StrategyParams):
    index: tuple[int, ...] = (0,)
    text: tuple[int, ...] = ()


class Pick(PruningStrategy[PickParams]):
    """Keep the tokens named."""

    name = "t-pick"
    Params = PickParams
    stages = (PreLlm(), Decoder(text=True))

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        wanted = self.params.index if tokens.kind == "visual" else self.params.text
        index = torch.tensor(wanted).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(index, tokens.count)


class Ragged(PruningStrategy[StrategyParams]):
    """Keep the first token and those whose first feature is positive."""

    name = "t-ragged"
    stages = (PreLlm(), Decoder())
    length = "data"

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        mask = tokens.hidden[..., 0] > 0
        mask[:, 0] = True
        return Reduction.keep_mask(mask)


class Exit(PruningStrategy[StrategyParams]):
    """Drop all."""

    name = "t-exit"
    stages = (PreLlm(), Decoder())
    length = "data"

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        return Reduction.keep_mask(torch.zeros(tokens.size.shape, dtype=torch.bool))


class Pairs(PruningStrategy[StrategyParams]):
    """Merge every odd token into the one before it."""

    name = "t-pairs"
    stages = (PreLlm(), Decoder(text=True))  # and breaks that promise

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        odd = torch.arange(1, 2 * budget.remove, 2).expand(tokens.hidden.shape[0], -1)
        return Reduction.merge(odd, odd - 1, tokens.size)


class Spy(PruningStrategy[StrategyParams]):
    """Keep the first tokens, and put what was shown aside."""

    name = "t-spy"
    stages = (PreLlm(), Decoder(text=True))
    seen: ClassVar[list[Tokens]] = []

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


class Fresh(PruningStrategy[StrategyParams]):
    """Replace all by the mean of equal runs, plus one."""

    name = "t-fresh"
    stages = (PreLlm(), Decoder())

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        batch, count, width = tokens.hidden.shape
        run = count // budget.keep
        made = tokens.hidden.view(batch, budget.keep, run, width).mean(2) + 1
        slot = (torch.arange(count) // run).expand(batch, -1)
        return Reduction.replace(made, slot, anchor=torch.arange(0, count, run).expand(batch, -1))


class Broken(PruningStrategy[StrategyParams]):
    """Raise."""

    name = "t-broken"
    stages = (PreLlm(), Decoder())

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        raise ZeroDivisionError("on purpose")


class Shrinking(PruningStrategy[StrategyParams]):
    """Keep the first tokens, before every layer."""

    name = "t-shrinking"
    stages = (Decoder(every_layer=True),)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


class LookParams(StrategyParams):
    signals: tuple[str, ...] = ()


class Look(PruningStrategy[LookParams]):
    """Keep the first tokens, and put what was shown aside, with the signals named."""

    name = "t-look"
    Params = LookParams
    stages = (PreLlm(), Decoder(text=True))
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return tuple(Signal.named(name) for name in self.params.signals)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


class LeaveParams(StrategyParams):
    earliest: int = 0


class Leave(PruningStrategy[LeaveParams]):
    """Drop all of a sample in front of layer 1, 2 or 3, by the length of its question."""

    name = "t-leave"
    Params = LeaveParams
    stages = (Decoder(every_layer=True),)
    length = "own"
    asked: ClassVar[list[tuple[int, int]]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.TEXT_PLACE,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.asked.append((tokens.site.layer, tokens.hidden.shape[0]))
        question = (tokens.signal(Signal.TEXT_PLACE) == 1).sum(dim=1)
        stay = tokens.site.layer < exit_layer(question).clamp(min=self.params.earliest)
        return Reduction.keep_mask(stay[:, None].expand_as(tokens.index))


def exit_layer(question: torch.Tensor) -> torch.Tensor:
    """Where `Leave` drops a sample whose question has so many tokens."""
    return 1 + question % 3


class Shy(PruningStrategy[PickParams]):
    """Keep the tokens named, whatever the plan says, with a budget of its own."""

    name = "t-shy"
    Params = PickParams
    stages = (PreLlm(), Decoder(text=True))
    length = "own"
    given: ClassVar[list[Budget]] = []

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.given.append(budget)
        wanted = self.params.index if tokens.kind == "visual" else self.params.text
        mask = torch.zeros(tokens.index.shape, dtype=torch.bool)
        mask[:, list(wanted)] = True
        return Reduction.keep_mask(mask)


class Trim(Pick):
    """Keep the tokens named, or the last ones, in the caches of the layers before too."""

    name = "t-trim"

    def trims_cache(self) -> bool:
        return True

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        if self.params.index or self.params.text:
            return super().reduce(tokens, budget)
        last = torch.arange(budget.remove, tokens.count)
        return Reduction.keep(last.expand(tokens.hidden.shape[0], -1), tokens.count)


PLUGIN = registering(
    Pick, Ragged, Exit, Pairs, Spy, Fresh, Broken, Shrinking, Look, Leave, Shy, Trim
)
