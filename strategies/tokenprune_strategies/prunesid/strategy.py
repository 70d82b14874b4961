"""The strategy `prunesid`."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices
from tokenprune_strategies.prunesid.groups import distinct, principal
from tokenprune_strategies.prunesid.quotas import quotas
from tokenprune_strategies.shared.assembly import Order, listed
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.ranking import place_in_group
from tokenprune_strategies.shared.saliency import SALIENCY


class PruneSIDParams(StrategyParams):
    """Parameters of `prunesid`."""

    score: Literal["part", "cls", "received"] = Field(
        default="part",
        description="What tokens of a group are ranked by: their part of the group's direction; "
        "the class token's attention; or the attention that they receive from all patches.",
    )
    tokens_per_group: int = Field(
        default=4, ge=1, description="Kept tokens for every group, in the mean."
    )
    threshold: float = Field(
        default=18.0,
        gt=0,
        description="Times the kept share and the mean cosine of the picture's tokens: the cosine "
        "above which a token repeats another of its group.",
    )
    order: Order = Field(
        default="raster",
        description="Order of the tokens in the prompt: each at its own place; or group by group, "
        "in each by rank, on the first places.",
    )


class PruneSID(PruningStrategy[PruneSIDParams]):
    """Before the LLM: groups by principal directions, of every group what repeats least.

    Source: "Prune Redundancy, Preserve Essence" (arXiv 2603.09480), from notes on its abstract and
    its code. The budget that follows the picture (PruneSID-Dyn) is left out.
    """

    name = "prunesid"
    Params = PruneSIDParams
    stages = (PreLlm(),)
    about = About(
        summary="Groups tokens by principal directions, keeps of each what repeats no other.",
        paper="Prune Redundancy, Preserve Essence (PruneSID), arXiv 2603.09480",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={"order": "tokens stay at their places, so that position ids and pictures are true"},
        borrowed={
            "score": "the code's",
            "tokens_per_group": "the code's",
            "threshold": "the code's",
        },
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The encoder's attention, if tokens are ranked by it."""
        return () if self.params.score == "part" else (SALIENCY[self.params.score],)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens."""
        if not budget.remove:
            return Reduction.none()
        count, keep = tokens.count, budget.keep
        groups = max(1, keep // self.params.tokens_per_group)
        number, part = principal(tokens.hidden, groups)
        asked = self.signals(tokens.site)
        score = tokens.signal(asked[0]) if asked else part
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        alike = cosines(tokens.hidden)
        mean = alike.triu(diagonal=1).sum(dim=(1, 2)) / (count * (count - 1) / 2)
        tau = self.params.threshold * keep / count * mean
        stays = distinct(alike, number, rank, tau)
        empty = torch.zeros_like(number[:, :1]).expand(-1, groups)
        size = empty.scatter_add(1, number, torch.ones_like(number))
        several = empty.scatter_add(1, number, stays.long())
        own = quotas(size, several, keep).gather(1, number)
        # What repeats another comes behind all that don't.
        place = place_in_group(-(rank + count * ~stays), number)
        if self.params.order == "raster":
            index = topk_indices((place < own).float(), keep)
            return Reduction.keep(index, count, score=score)
        key = torch.where(place < own, number, groups) * count + place
        return listed(tokens, key.argsort(dim=1, stable=True)[:, :keep], score=score)
