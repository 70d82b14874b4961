"""The strategy `prumerge`."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import take
from tokenprune_strategies.prumerge.selecting import adaptive, budgeted
from tokenprune_strategies.shared.assembly import Made, Order, assembled
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.indexing import complement
from tokenprune_strategies.shared.saliency import SaliencyParams

_JOINED = {"cls": Signal.CLS_ATTENTION_JOINED, "received": Signal.ATTENTION_RECEIVED_JOINED}


class PruMergeParams(SaliencyParams):
    """Parameters of `prumerge`."""

    plus: bool = Field(
        default=True,
        description="Add an even grid of tokens to the outliers (PruMerge+), where no budget is "
        "given.",
    )
    neighbours: int = Field(
        default=32, ge=0, description="Tokens with the most similar keys that are added to each."
    )
    block: Literal["behind", "last"] = Field(
        default="behind",
        description="Encoder block whose queries and keys are read: the one behind the block that "
        "feeds the projector, or that block itself (encoders without another one).",
    )
    order: Order = Field(
        default="raster",
        description="Order of the tokens in the prompt: each at its own place, the token of what "
        "is dropped at the most attended dropped one's; or outliers by attention, the grid, then "
        "that token, on the first places.",
    )


class PruMerge(PruningStrategy[PruMergeParams]):
    """Before the LLM: outliers of the class token's attention, with what is like them added.

    Source: LLaVA-PruMerge (arXiv 2403.15388, section 3), and notes on its code.
    """

    name = "prumerge"
    Params = PruMergeParams
    stages = (PreLlm(),)
    length = "own"
    about = About(
        summary="Keeps outliers of attention and an even grid, adds to each what is like it.",
        paper="LLaVA-PruMerge, arXiv 2403.15388",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={"order": "tokens stay at their places, so that position ids and pictures are true"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Attention and keys with all heads as one, of the block that is asked for."""
        asked = (_JOINED[self.params.score], Signal.KEYS_JOINED)
        if self.params.block == "last":
            return asked
        return tuple(signal.at(site.layers) for signal in asked)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Sample by sample; exactly `budget.keep` tokens if the plan gives a budget."""
        if budget.given and not budget.remove:
            return Reduction.none()
        rows = range(tokens.hidden.shape[0])
        return Reduction.ragged([self._one(tokens.of([row]), budget) for row in rows])

    def _one(self, tokens: Tokens, budget: Budget) -> Reduction:
        attention, keys = (tokens.signal(signal) for signal in self.signals(tokens.site))
        score = attention[0].float()
        if budget.given:
            # One of them is the token of what is dropped.
            kept = budgeted(score, max(1, budget.keep - 1))
        else:
            kept = adaptive(score, plus=self.params.plus)
        made = merged(
            tokens.hidden[0].float(), keys[0].float(), score, kept, self.params.neighbours
        )
        rest = complement(kept[None], tokens.count)
        if rest.shape[1] and not (budget.given and budget.keep == 1):
            made = with_rest(made, tokens.hidden.float(), score[None], rest)
        nothing = kept.new_zeros(1, 0)
        return assembled(tokens, nothing, made, self.params.order, score=score[None])


def merged(hidden: Tensor, keys: Tensor, score: Tensor, kept: Tensor, count: int) -> Made:
    """Kept tokens of one sample, each with its neighbours added, weighted by their scores.

    The weights are not normalised, and a neighbour may be kept itself, both as in the code.

    Args:
        hidden: `[N, D]`.
        keys: `[N, C]`.
        score: `[N]`.
        kept: `[k]` in the paper's order.
        count: neighbours of each.
    """
    near = neighbours(keys, kept, count)
    states = hidden[kept] + (score[:, None] * hidden)[near].sum(dim=1)
    own = torch.arange(len(kept), device=kept.device)
    return Made(states[None], kept[None], kept[None], own[None])


def with_rest(made: Made, hidden: Tensor, score: Tensor, rest: Tensor) -> Made:
    """One token more: the sum of what is dropped, weighted by scores, at the best one's place.

    Args:
        made: `[1, k, ...]` the kept ones.
        hidden: `[1, N, D]`.
        score: `[1, N]`.
        rest: `[1, N - k]` ascending.
    """
    looks = score.gather(1, rest)
    total = (looks[..., None] * take(hidden, rest)).sum(dim=1, keepdim=True)
    place = rest.gather(1, looks.argmax(dim=1, keepdim=True))
    joins = torch.full_like(rest, made.place.shape[1])
    return Made(
        torch.cat((made.states, total), dim=1),
        torch.cat((made.place, place), dim=1),
        torch.cat((made.member, rest), dim=1),
        torch.cat((made.joins, joins), dim=1),
    )


def neighbours(keys: Tensor, kept: Tensor, count: int) -> Tensor:
    """For every kept token the others with the most similar keys, `[k, count]`; ties: lower index.

    Args:
        keys: `[N, C]`, compared by cosine.
        kept: `[k]`.
        count: how many; all others if there are fewer.
    """
    alike = cosines(keys[None])[0][kept]
    alike = alike.scatter(1, kept[:, None], -torch.inf)
    order = alike.argsort(dim=1, descending=True, stable=True)
    return order[:, : min(count, len(keys) - 1)]
