"""Inputs and small checks that the tests of several strategies share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site, Stage
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

ENCODER = Site("encoder", 3, 12)
SITES: dict[Stage, Site] = {
    "encoder": ENCODER,
    "pre_llm": Site("pre_llm", 12, 12),
    "decoder": Site("decoder", 2, 6),
}


def make_tokens(
    hidden: Tensor,
    *,
    site: Site = ENCODER,
    signals: Mapping[Signal, Tensor] | None = None,
    size: Tensor | None = None,
    index: Tensor | None = None,
    grid: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> Tokens:
    batch, count, _ = hidden.shape
    grid = grid or (1, 1, count)
    index = torch.arange(count).expand(batch, count) if index is None else index
    return Tokens(
        hidden=hidden,
        size=torch.ones(batch, count) if size is None else size,
        index=index,
        grid=grid,
        site=site,
        signals={signal.name: value for signal, value in (signals or {}).items()},
        seed=seed,
    )


def budget(tokens: Tokens, keep: int) -> Budget:
    return Budget(count=tokens.count, keep=keep)


def best_by_loops(score: list[float], count: int) -> list[int]:
    """Numbers of the `count` largest, best first; ties: the lower number."""
    return sorted(range(len(score)), key=lambda number: (-score[number], number))[:count]


def cosine(x: list[float], y: list[float]) -> float:
    """Cosine of two vectors; 0 where one is zero."""
    norms = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / norms if norms else 0.0


def pairs_of(reduction: Reduction, sample: int = 0) -> set[tuple[int, int]]:
    """(source, target) of every merged token of a sample."""
    assert reduction.anchor is not None
    assert reduction.slot is not None
    anchor, slot = reduction.anchor[sample].tolist(), reduction.slot[sample].tolist()
    return {(token, anchor[s]) for token, s in enumerate(slot) if token != anchor[s]}


def axis_vectors(count: int, dim: int, seed: int) -> Tensor:
    """Duplicates, opposites, multiples and zeros, whose cosines float32 gets exactly, `[N, D]`."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randint(0, dim, (count,), generator=generator)
    scale = torch.tensor([-2.0, -1.0, 0.0, 1.0, 4.0])
    picked = scale[torch.randint(0, 5, (count,), generator=generator)]
    return torch.nn.functional.one_hot(axis, dim) * picked[:, None]
