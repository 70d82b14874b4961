"""Tokens without a model."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.tokens import Tokens
from tokenprune.testing.views import Maker

PRE_LLM = Site.behind(12)


def fake_tokens(
    *,
    batch: int = 2,
    grid: Grid = (1, 4, 4),
    count: int | None = None,
    width: int = 16,
    site: Site = PRE_LLM,
    signals: Iterable[Signal] = (),
    prefix: int | None = None,
    groups: int = 4,
    alike: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Tokens:
    """Tokens as a strategy gets them, drawn at random; equal arguments give equal tokens.

    Values of signals are computed by their own functions from made-up queries, keys and states, so
    attention adds up to one and text is padded as in a model.

    Args:
        batch: samples B.
        grid: the patch grid (t, h, w).
        count: tokens N; fewer than the grid has patches are those that an earlier stage left, whose
            sizes are 1 to 3. Default: all patches, of size one.
        width: channels D.
        site: where the tokens are.
        signals: what the strategy asks for there.
        prefix: class and register tokens P; default: one, and none inside the LLM.
        groups: companion tokens G.
        alike: all tokens of a sample are the same.
        dtype: of states and signals.
        seed: of the numbers, and the plan's seed that `Tokens` carry.
    """
    generator = torch.Generator().manual_seed(seed)
    patches = math.prod(grid)
    left = patches if count is None else count
    in_front = (0 if site.stage == "decoder" else 1) if prefix is None else prefix
    make = Maker(batch, left, width, in_front, groups, dtype, alike, generator)
    size = torch.ones(batch, left)
    if left < patches and not alike:
        size = torch.randint(1, 4, (batch, left), generator=generator).float()
    order = torch.rand(batch, patches, generator=generator).argsort(dim=1)
    return Tokens(
        hidden=make.tokens(0, 0, width),
        size=size,
        index=order[:, :left].sort(dim=1).values,
        grid=grid,
        site=site,
        prefix=make.drawn(batch, in_front, width) if in_front else None,
        signals={signal.name: make.value(signal) for signal in signals},
        seed=seed,
    )
