"""Small strategies, one for every shape of method that the interface has to carry."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from tests import models
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.ops import topk_indices

MARK = "s-mark"


class Mark(PruningStrategy[StrategyParams]):
    """First stage of a method: note every token's patch and norm; keep the first ones."""

    name = MARK
    stages = (Encoder(schedule="mean"), PreLlm(), Decoder())

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        made = Reduction.keep(first, tokens.count) if budget.remove else Reduction.none()
        noted = torch.stack((tokens.index.float(), tokens.hidden.float().norm(dim=-1)), dim=-1)
        return replace(made, riders={MARK: noted})


class Follow(PruningStrategy[StrategyParams]):
    """Later stages of it: keep the tokens that the first one noted as the longest."""

    name = "s-follow"
    stages = (PreLlm(), Decoder())
    seen: ClassVar[list[Tokens]] = []

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        score = tokens.riders[MARK][..., 1]
        return Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)


class Inflection(PruningStrategy[StrategyParams]):
    """A length that depends on the data: cut the sorted scores where they fall most steeply."""

    name = "s-inflection"
    stages = (PreLlm(),)
    length = "data"

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.ATTENTION_RECEIVED,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        score = tokens.signal(Signal.ATTENTION_RECEIVED)
        ordered = score.sort(dim=1, descending=True).values[:, : budget.keep]
        place = (ordered[:, :-1] - ordered[:, 1:]).argmax(dim=1, keepdim=True)
        return Reduction.keep_mask(score >= ordered.gather(1, place), score=score)


class Lump(PruningStrategy[StrategyParams]):
    """Merges of a data-dependent length: neighbours on one side of the mean become one."""

    name = "s-lump"
    stages = (PreLlm(), Decoder())
    length = "data"

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        return Reduction.ragged([self._one(tokens, row) for row in range(len(tokens.hidden))])

    def _one(self, tokens: Tokens, row: int) -> Reduction:
        channel = tokens.hidden[row, :, 0]
        sign = 2 * tokens.position[row, :, 0] + (channel > channel.mean())
        starts = torch.cat((torch.ones(1, dtype=torch.bool), sign[1:] != sign[:-1]))
        slot = (starts.cumsum(0) - 1)[None]
        riders = {"s-run": slot.float()}
        size = tokens.size[row : row + 1]
        return Reduction(starts.nonzero().T, slot, size, riders=riders)


class Leave(PruningStrategy[StrategyParams]):
    """An exit: let go of all tokens once the last prompt token looks at them little enough."""

    class Params(StrategyParams):
        below: float

    name = "s-leave"
    stages = (Decoder(),)
    length = "data"
    masses: ClassVar[dict[int, list[float]]] = {}

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.LAST_QUERY_ATTENTION,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        mass = tokens.signal(Signal.LAST_QUERY_ATTENTION).sum(dim=1, keepdim=True)
        self.masses.setdefault(tokens.site.layer, []).extend(mass[:, 0].tolist())
        stays = mass >= self.params.below
        return Reduction.keep_mask(stays.expand(-1, tokens.count))


class Learned(PruningStrategy[StrategyParams]):
    """New tokens from learned queries over the features."""

    name = "s-learned"
    stages = (PreLlm(),)

    def __init__(self, params: StrategyParams) -> None:
        super().__init__(params)
        torch.manual_seed(0)
        self.queries = nn.ParameterList([nn.Parameter(torch.randn(6, models.WIDTH))])

    def modules(self) -> nn.Module | None:
        return self.queries

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        weight = (self.queries[0] @ tokens.hidden.transpose(1, 2)).softmax(dim=1)  # [B, M, N]
        created = weight @ tokens.hidden / weight.sum(dim=-1, keepdim=True)
        return Reduction.replace(created, weight.argmax(dim=1))


class Words(PruningStrategy[StrategyParams]):
    """Visual and text tokens by the same attention row."""

    name = "s-words"
    stages = (Decoder(text=True),)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.LAST_QUERY_ATTENTION,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        score = tokens.signal(Signal.LAST_QUERY_ATTENTION)
        return Reduction.keep(topk_indices(score, budget.keep), tokens.count)


SHAPES = registering(Mark, Follow, Inflection, Lump, Leave, Learned, Words)
