"""Merging within frames: half of what is left, round after round, until the budget is met."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.interface.reduction import Reduction
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import merge_compact, sum_compact
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.frames import by_frame, frame_sizes


def merged(tokens: Tokens, keep: int) -> Reduction:
    """Bipartite matching in every frame, in rounds; each takes plain means of what joins.

    Args:
        tokens: what arrived.
        keep: tokens K that are left of all frames together.
    """
    sizes = frame_sizes(tokens)
    share = shares(sizes, keep)
    # A frame without a share is dropped as it is (ours), so there is nothing to merge in it.
    target = torch.where(share > 0, share, sizes).flatten()[:, None]
    # All frames of all samples are rows; a token is known by its place in its frame.
    left = by_frame(torch.ones_like(tokens.index), tokens).flatten(0, 1) > 0
    states = by_frame(tokens.hidden.float(), tokens).flatten(0, 1)
    place = torch.arange(left.shape[1], device=left.device).expand_as(left)
    weight = torch.ones_like(left, dtype=torch.float32)
    for _ in range(rounds(tokens, keep)):
        into = joined(states, left, target)
        one = left.float()
        states = merge_compact(states, into, one, left.shape[1])
        group = sum_compact(one, into, left.shape[1])
        place = into.gather(1, place)
        weight = weight / group.gather(1, place).clamp(min=1)
        left = group > 0
    left = left & (share > 0).flatten()[:, None]
    return _answer(tokens, keep, left, place, weight)


def shares(sizes: Tensor, keep: int) -> Tensor:
    """Tokens `[B, t]` that each frame keeps, `keep` in all and even but for rounding (ours).

    Args:
        sizes: `[B, t]` tokens of each frame.
        keep: tokens K of all frames together, at most as many as there are.
    """
    until = sizes.cumsum(dim=1)
    part = until * keep // until[:, -1:]
    return part.diff(dim=1, prepend=torch.zeros_like(part[:, :1]))


def rounds(tokens: Tokens, keep: int) -> int:
    """How many rounds meet any frame's share, as far as it can be told without reading values."""
    frames, height, width = tokens.grid
    if tokens.count == frames * height * width:
        most = -(-height * width // max(1, keep // frames))
    else:
        # A share below 2 is at least half of what is due, and larger ones are nearer to it.
        most = min(height * width, -(-2 * tokens.count // keep))
    return (most - 1).bit_length()


def joined(states: Tensor, left: Tensor, target: Tensor) -> Tensor:
    """One round: where the token at every place goes, `[F, n]`; its own place if it stays.

    Of the tokens that are left, those at even ranks propose to those at odd ranks. The pairs with
    the largest cosines merge, half of the tokens at most; ties go to the lower place.

    Args:
        states: `[F, n, D]` by place.
        left: `[F, n]` True where a token is left.
        target: `[F, 1]` tokens that are to be left in the end.
    """
    rank = left.cumsum(dim=1) - 1
    even, odd = left & (rank % 2 == 0), left & (rank % 2 == 1)
    alike = cosines(states).masked_fill(~odd[:, None], -torch.inf)
    partner = alike.argmax(dim=2)
    best = alike.gather(2, partner[..., None])[..., 0].masked_fill(~even, -torch.inf)
    order = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    count = left.sum(dim=1, keepdim=True)
    going = even & (order < torch.minimum(count // 2, count - target))
    here = torch.arange(left.shape[1], device=left.device).expand_as(left)
    return torch.where(going, partner, here)


def _answer(tokens: Tokens, keep: int, left: Tensor, place: Tensor, weight: Tensor) -> Reduction:
    """The reduction, from what is left `[B * t, n]`, and places and weights `[B * t, n]` by place.

    A merged token has the place of the last one that others went into.
    """
    batch, frames = len(tokens.hidden), tokens.grid[0]
    first = torch.arange(frames, device=place.device).repeat(batch) * left.shape[1]
    on_grid = (place + first[:, None]).view(batch, -1).gather(1, tokens.index)
    stays = left.view(batch, -1)
    rank = stays.long().cumsum(dim=1) - 1
    slot = torch.where(stays.gather(1, on_grid), rank.gather(1, on_grid), -1)
    own = stays.gather(1, tokens.index) & (on_grid == tokens.index)
    anchor = torch.sort((~own).to(torch.int8), dim=1, stable=True).indices[:, :keep]
    share = weight.view(batch, -1).gather(1, tokens.index)
    return Reduction(anchor=anchor, slot=slot, weight=share)
