"""FrameFusion: alike tokens of a video merge in the first layers of the LLM, then some leave."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune.errors import BudgetError
from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens

NOTE = "framefusion"
"""Rider `[B, N, 3]` int64, the same for all tokens of a sample: `Progress`."""
MERGE, PRUNE, DONE = range(3)


class Progress(NamedTuple):
    """How far a sample is.

    Attributes:
        phase: `MERGE`, `PRUNE` or `DONE`.
        first: tokens at the first layer of all.
        spent: tokens of the layers so far, all together.
    """

    phase: int
    first: int
    spent: int


class FrameFusionParams(StrategyParams):
    """Parameters of `framefusion`."""

    cost: float = Field(
        default=0.3, gt=0, le=1, description="Tokens that the layers see in the mean, as a share."
    )
    tau: float = Field(
        default=0.6,
        ge=-1,
        le=1,
        description="Cosine from which a token merges with the one before it at its place.",
    )
    stop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Merging ends with the layer at which a smaller share of the tokens merges.",
    )


class FrameFusion(PruningStrategy[FrameFusionParams]):
    """Inside the LLM: merges layer by layer while much is alike, then one step of pruning.

    Every sample goes on by itself; a rider tells later layers how far it is. Source: FrameFusion
    (arXiv 2501.01986), and notes on its code.
    """

    name = "framefusion"
    Params = FrameFusionParams
    stages = (Decoder(layer=0, every_layer=True),)
    length = "own"
    about = About(
        summary="Merges what frames repeat in the first layers of the LLM, then prunes to a cost.",
        paper="FrameFusion, arXiv 2501.01986",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
        borrowed={"tau": "the code's", "stop": "the code's"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The last prompt token's attention in the layer before; the first layer has none."""
        return (Signal.LAST_QUERY_ATTENTION,) if site.layer else ()

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Its budget is its cost.

        Raises:
            BudgetError: another budget is given.
        """
        if budget.keep < budget.count:
            raise BudgetError(
                "framefusion sets the number of tokens of every layer by its parameter 'cost'.",
                where=str(site),
                remedy="Leave 'keep' out, and write params: {cost: 0.3}.",
                nearest=budget.count,
            )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Sample by sample; nothing once all samples are done."""
        note = tokens.riders.get(NOTE)
        begin = Progress(MERGE, tokens.count, tokens.count * tokens.site.layer)
        batch = len(tokens.hidden)
        known = [begin] * batch if note is None else [Progress(*r) for r in note[:, 0].tolist()]
        if all(progress.phase == DONE for progress in known):
            return Reduction.none()
        steps = {MERGE: self._merge, PRUNE: self._prune, DONE: _stay}
        return Reduction.ragged(
            [steps[p.phase](tokens.of([row]), p) for row, p in enumerate(known)]
        )

    def _merge(self, tokens: Tokens, progress: Progress) -> Reduction:
        """What is alike; or, if that is enough for the cost, as much as it takes and no more."""
        alike, before = like_before(tokens)
        over = max(0.0, tokens.count - self._due(tokens, progress))
        going = alike >= self.params.tau
        many, phase = int(going.sum()), MERGE
        if many < over:
            phase = PRUNE if many < self.params.stop * tokens.count else MERGE
        else:
            many, phase = int(over + 1e-9), DONE
            best = alike.argsort(descending=True, stable=True)[:many]
            going = torch.zeros_like(going).scatter(0, best, torch.ones_like(going))
        head = heads(going, before)
        anchor = (~going).nonzero()[:, 0]
        slot = ((~going).long().cumsum(dim=0) - 1)[head]
        ones = torch.ones_like(tokens.size)
        return _noted(Reduction(anchor[None], slot[None], ones), tokens, progress, phase)

    def _prune(self, tokens: Tokens, progress: Progress) -> Reduction:
        """The tokens of the largest attention, as many as the cost leaves for the other layers."""
        keep = min(tokens.count, max(1, round(self._due(tokens, progress))))
        score = tokens.signal(Signal.LAST_QUERY_ATTENTION)
        kept = score.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(dim=1).values
        return _noted(Reduction.keep(kept, tokens.count, score=score), tokens, progress, DONE)

    def _due(self, tokens: Tokens, progress: Progress) -> float:
        """Tokens of each layer from here on that use the cost up."""
        layer, layers = tokens.site.layer, tokens.site.layers
        return (self.params.cost * layers * progress.first - progress.spent) / (layers - layer)


def like_before(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """How alike every token is to the one before it at its place, of those that are left.

    Args:
        tokens: a batch of one.

    Returns:
        Cosines `[N]`, -inf for the first at a place, and the tokens before them, `[N]`.
    """
    frames, height, width = tokens.grid
    frame, place = tokens.index[0] // (height * width), tokens.index[0] % (height * width)
    order = (place * frames + frame).argsort()
    states, place = tokens.hidden[0, order].float(), place[order]
    found = cosine_similarity(states[1:], states[:-1], dim=-1)
    found = found.masked_fill(place[1:] != place[:-1], -torch.inf)
    found = torch.cat((found.new_full((1,), -torch.inf), found))
    before = torch.cat((order[:1], order[:-1]))
    return found.scatter(0, order, found), before.scatter(0, order, before)


def heads(going: Tensor, before: Tensor) -> Tensor:
    """The token `[N]` that each ends in, where those that go are one with the one before them."""
    here = torch.arange(len(going), device=going.device)
    head = torch.where(going, before, here)
    for _ in range(len(going).bit_length()):  # chains are followed twice as far each time
        head = head[head]
    return head


def _stay(tokens: Tokens, progress: Progress) -> Reduction:
    every = torch.arange(tokens.count, device=tokens.index.device)[None]
    return _noted(Reduction.keep(every, tokens.count), tokens, progress, DONE)


def _noted(answer: Reduction, tokens: Tokens, progress: Progress, phase: int) -> Reduction:
    """The answer with a note of how far the sample is behind this layer."""
    spent = progress.spent + answer.length
    note = tokens.index.new_tensor([phase, progress.first, spent])
    return replace(answer, riders={NOTE: note.expand(1, tokens.count, 3)})
