"""From seeds outwards: tokens that are unlike all picks come first, and near ones before far ones.

Sample by sample on the CPU, for the number of rounds depends on the values.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.interface.sites import Grid


class Pace(NamedTuple):
    """How fast the choice goes outwards.

    Attributes:
        tau: likeness below which a token is taken in the first pass.
        step: by how much a pass is more lenient than the one before.
        batch: tokens that are judged at once.
        buffer: by how much likeness grows at the greatest distance, as a share.
    """

    tau: float
    step: float
    batch: int
    buffer: float


def apart(position: Tensor, grid: Grid) -> Tensor:
    """Distances of tokens as shares of the grid's diagonal, `[N, N]`.

    Tokens of different frames are as far apart as can be, 1 (ours; the code knows one picture).

    Args:
        position: (t, h, w) of every token, `[N, 3]`.
        grid: patch grid (t, h, w).
    """
    frame, row, column = (one[:, None] - one for one in position.float().unbind(dim=-1))
    distance = (row.square() + column.square()).sqrt()
    return (distance / math.hypot(*grid[1:])).where(frame == 0, 1.0)


class Picks:
    """The tokens of one sample that are taken so far, and how all tokens stand to them."""

    def __init__(self, alike: Tensor, distance: Tensor, buffer: float) -> None:
        """Nothing is taken yet; both are `[N, N]`."""
        self.alike, self.distance, self.buffer = alike, distance, buffer
        self.nearest = torch.full_like(alike[0], torch.inf)
        self.closest = torch.full_like(alike[0], -torch.inf)
        self.taken: list[int] = []

    def take(self, token: Tensor) -> None:
        """Some tokens `[n]` more."""
        self.taken += token.tolist()
        self.closest = torch.maximum(self.closest, self.alike[:, token].amax(dim=1))
        self.nearest = torch.minimum(self.nearest, self.distance[:, token].amin(dim=1))

    def likeness(self, token: Tensor) -> Tensor:
        """Buffered likeness `[n]` of tokens to the picks: far from all of them it is larger (BSS).

        The buffer of a token is the same for all picks, so the largest likeness is buffered last.
        """
        return self.closest[token] * (1 + self.buffer * self.nearest[token])

    def left(self) -> Tensor:
        """The others, ascending."""
        free = torch.ones_like(self.closest, dtype=torch.bool)
        free[self.taken] = False
        return free.nonzero()[:, 0]


def outwards(alike: Tensor, distance: Tensor, seeds: Tensor, keep: int, pace: Pace) -> Tensor:
    """`keep` tokens, `[keep]` ascending; equally unlike ones in order of their index.

    A pass goes through the others, the least alike first, and takes of every batch those below
    tau; likeness counts what the pass took already. A pass whose first batch holds none is over.

    Args:
        alike: cosines of one sample, `[N, N]`.
        distance: `[N, N]`, see `apart`.
        seeds: the first picks, at most `keep`.
        keep: how many tokens in all.
        pace: how fast.
    """
    # NaN would be below no tau, and the choice would never end
    picks, tau = Picks(alike.nan_to_num(), distance, pace.buffer), pace.tau
    picks.take(seeds)
    while len(picks.taken) < keep:
        before, waiting = len(picks.taken), picks.left()
        waiting = waiting[picks.likeness(waiting).argsort(stable=True)]
        for number, batch in enumerate(torch.split(waiting, pace.batch)):
            if len(picks.taken) == keep or (number == 1 and len(picks.taken) == before):
                break
            likeness = picks.likeness(batch)
            room = keep - len(picks.taken)
            best = likeness.argsort(stable=True)[:room]
            fitting = batch[best[likeness[best] < tau]]
            if len(fitting):
                picks.take(fitting)
        tau += pace.step
    return torch.tensor(sorted(picks.taken), device=seeds.device)
