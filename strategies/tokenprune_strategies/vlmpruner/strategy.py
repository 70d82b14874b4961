"""The strategy `vlmpruner`."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import take, topk_indices
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.indexing import complement
from tokenprune_strategies.shared.spread import farthest
from tokenprune_strategies.vlmpruner.outwards import Pace, apart, outwards

_LEAST = 1e-8
"""Weights are divided by this at least, the code's."""


class VLMPrunerParams(StrategyParams):
    """Parameters of `vlmpruner`."""

    seeds: int = Field(default=4, ge=1, description="Tokens that the choice starts from.")
    channels: int = Field(
        default=256, ge=1, description="Channels of the largest variance that cosines are of."
    )
    buffer: float = Field(
        default=0.5,
        ge=0,
        le=10,
        description="Likeness of a token grows by this share with its distance from the nearest "
        "pick, a share of the picture's diagonal.",
    )
    tau: float = Field(
        default=0.8,
        ge=-1,
        description="Likeness below which a token is taken in the first pass.",
    )
    step: float = Field(
        default=0.1, ge=0.01, description="By how much a pass is more lenient than the one before."
    )
    batch: int = Field(default=16, ge=1, description="Tokens that a pass judges at once.")
    own: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of its own state in a token that dropped ones join; 1: these are lost.",
    )


class VLMPruner(PruningStrategy[VLMPrunerParams]):
    """Inside the LLM: from diverse seeds outwards, then what is dropped joins what is like it.

    Source: VLM-Pruner (arXiv 2512.02700), from notes on its abstract and its code.
    """

    name = "vlmpruner"
    Params = VLMPrunerParams
    stages = (Decoder(layer=2, maps=True),)
    # always as many as the plan says; but a GPU is waited for, since rounds depend on the values
    length = "data"
    about = About(
        summary="Keeps what is unlike the rest, near ones before far ones; dropped ones join.",
        paper="VLM-Pruner: Buffering for Spatial Sparsity, arXiv 2512.02700",
        licence="Written from method notes; the reference code carries no licence and was not "
        "used.",
        ours={},
        borrowed=dict.fromkeys(VLMPrunerParams.model_fields, "the code's"),
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Keys of the layer before, and how long they are."""
        return (Signal.KEY_LENGTH, Signal.LAYER_KEYS)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        if not budget.remove:
            return Reduction.none()
        params, keep = self.params, budget.keep
        longest = tokens.signal(Signal.KEY_LENGTH).argmax(dim=1)
        keys = tokens.signal(Signal.LAYER_KEYS).float()
        seeds = farthest(keys, longest, min(params.seeds, keep))
        alike = cosines(varied(tokens.hidden.float(), params.channels))
        pace = Pace(params.tau, params.step, params.batch, params.buffer)
        rows = zip(alike.cpu(), tokens.position.cpu(), seeds.cpu(), strict=True)
        chosen = [
            outwards(one, apart(position, tokens.grid), first, keep, pace)
            for one, position, first in rows
        ]
        kept = torch.stack(chosen).to(alike.device)
        if params.own == 1:
            return Reduction.keep(kept, tokens.count)
        return joined(tokens.hidden, alike, kept, params.own)


def varied(hidden: Tensor, channels: int) -> Tensor:
    """The channels of every sample that differ most between its tokens, `[B, N, D]`."""
    best = topk_indices(hidden.var(dim=1, correction=0), min(channels, hidden.shape[2]))
    return hidden.gather(2, best[:, None].expand(-1, hidden.shape[1], -1))


def joined(hidden: Tensor, alike: Tensor, kept: Tensor, own: float) -> Reduction:
    """Every dropped token joins the kept one most like it, weighted by how like it is (SWA).

    Tokens whose joining ones have no weight together stay as they are, and those are lost.

    Args:
        hidden: `[B, N, D]`.
        alike: cosines, `[B, N, N]`.
        kept: `[B, K]` ascending.
        own: share of its own state that a token keeps.
    """
    count = hidden.shape[1]
    rest = complement(kept, count)
    to_kept = take(alike, rest).gather(2, kept[:, None].expand(-1, rest.shape[1], -1))
    likeness, target = to_kept.max(dim=2, keepdim=True)
    share = torch.zeros_like(to_kept).scatter(2, target, likeness)
    share = share / share.sum(dim=1, keepdim=True).clamp(min=_LEAST)
    mixes = share.sum(dim=1) > 0
    states, lost = take(hidden.float(), kept), take(hidden.float(), rest)
    mean = share.transpose(1, 2) @ lost
    states = torch.where(mixes[..., None], own * states + (1 - own) * mean, states)
    number = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    target = target[..., 0]
    member = torch.where(mixes.gather(1, target), target, -1)
    slot = kept.new_empty(kept.shape[0], count).scatter(1, kept, number).scatter(1, rest, member)
    return Reduction(anchor=kept, slot=slot, created=states.to(hidden.dtype))
