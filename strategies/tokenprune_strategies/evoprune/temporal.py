"""Matching across neighbouring frames: our extension of EvoPrune for video, beyond the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.ops import Diversity, take
from tokenprune.ops.cosines import gains, unit_rows
from tokenprune_strategies.evoprune.scoring import Parts
from tokenprune_strategies.shared.bipartite import alternate
from tokenprune_strategies.shared.indexing import every

#: Frames whose targets a source may merge into, from its own; ties go to the first of them.
WINDOW = (0, -1, 1)


def neighbouring_pairs(
    metric: Tensor,
    parts: Parts,
    remove: int,
    frames: int,
    *,
    diversity: Diversity | None,
    squash: bool,
) -> tuple[Tensor, Tensor]:
    """The `remove` best proposals of every frame, to targets of it and of the frames beside it.

    Scores, blocked tokens and ties are as in `match_pairs`; own targets win ties, then those of the
    frame before.

    Args:
        metric: `[V * T, N, D]`, frame by frame.
        parts: sources and targets of every frame.
        remove: pairs r of every frame.
        frames: frames T of each video.
        diversity: how tokens of sparse regions are spared, frame by frame; or None.
        squash: use `(1 + cos) / 2`.

    Returns:
        Sources and targets in whole videos, `[V, T * r]`, as places among their T * N tokens.
    """
    order = every(metric) if parts.order is None else parts.order
    source, target = alternate(order[:, : parts.candidates])
    unit = unit_rows(take(metric, order))  # candidates in front
    score = pair_scores(unit, parts.candidates, frames, diversity=diversity, squash=squash)
    inside = window(torch.ones_like(target, dtype=torch.bool), frames)
    score = score.masked_fill(~inside[:, None], -torch.inf)
    unblocked = None
    if parts.blocked is not None:
        taken = take(parts.blocked, source)[:, :, None]
        apart = taken | window(take(parts.blocked, target), frames)[:, None]
        value, mate = score.masked_fill(apart, -torch.inf).max(dim=-1)
        unblocked = value, mate
    value, mate = score.max(dim=-1)
    chosen, mate = best_proposals((value, mate), unblocked, remove)
    first = torch.arange(frames, device=metric.device) * metric.shape[1]
    first = first.repeat(len(metric) // frames)[:, None]
    place = window(target + first, frames)
    sources = (source + first).gather(1, chosen)
    targets = place.gather(1, mate.gather(1, chosen))
    return _videos(sources, frames), _videos(targets, frames)


def pair_scores(
    unit: Tensor, candidates: int, frames: int, *, diversity: Diversity | None, squash: bool
) -> Tensor:
    """Scores of every source with the targets of its own frame and of those beside it.

    The cosines within a frame, of which the density is made too, are computed once.

    Args:
        unit: `[V * T, N, D]` rows of length 1 or 0, the candidates in front, which propose and
            receive in turn.
        candidates: how many they are.
        frames: frames T of each video.
        diversity: how tokens of sparse regions are spared, frame by frame; or None.
        squash: use `(1 + cos) / 2`.

    Returns:
        `[V * T, Ns, 3 * Nt]`, in the order of `WINDOW`; to frames that don't exist, any.
    """
    ahead, behind = slice(0, candidates, 2), slice(1, candidates, 2)
    sources, targets = unit[:, ahead], unit[:, behind]
    if diversity is None:
        score = sources @ window(targets, frames).mT
        return (score + 1.0) * 0.5 if squash else score
    gain, cosine = gains(unit, candidates, *diversity)
    beside = window(targets, frames)[:, targets.shape[1] :]
    score = torch.cat((cosine[:, ahead, behind], sources @ beside.mT), dim=2)
    score = (score + 1.0) * 0.5 if squash else score
    return score * window(gain[:, behind], frames)[:, None] * gain[:, ahead, None]


def best_proposals(
    every: tuple[Tensor, Tensor], unblocked: tuple[Tensor, Tensor] | None, remove: int
) -> tuple[Tensor, Tensor]:
    """Which tokens propose, and the partner of each of all.

    Args:
        every: score and partner of every token's best proposal, `[B, Na]` each.
        unblocked: the same without blocked tokens, -inf for no proposal; None if none is blocked.
        remove: number of proposals r to take, unblocked ones first.

    Returns:
        The proposing tokens `[B, r]`, best first, and all tokens' partners `[B, Na]`.
    """
    value, mate = every
    if unblocked is None:
        return torch.sort(value, dim=1, descending=True, stable=True).indices[:, :remove], mate
    free_value, free_mate = unblocked
    free = free_value > -torch.inf
    mate = torch.where(free, free_mate, mate)
    order = torch.sort(
        torch.where(free, free_value, value), dim=1, descending=True, stable=True
    ).indices
    # The second sort is stable, so the order by value holds among the free and among the others.
    first = torch.sort(free.gather(1, order).to(torch.int8), dim=1, descending=True, stable=True)
    return order.gather(1, first.indices[:, :remove]), mate


def window(value: Tensor, frames: int) -> Tensor:
    """Beside the values of every frame those of its neighbours, zeros where there is none.

    `[V * T, M, ...]` -> `[V * T, 3 * M, ...]`, in the order of `WINDOW`.
    """
    video = value.reshape(-1, frames, *value.shape[1:])
    nothing = torch.zeros_like(video[:, :1])
    before = torch.cat((nothing, video[:, :-1]), dim=1)
    after = torch.cat((video[:, 1:], nothing), dim=1)
    beside = {0: video, -1: before, 1: after}
    return torch.cat([beside[step] for step in WINDOW], dim=2).flatten(0, 1)


def _videos(value: Tensor, frames: int) -> Tensor:
    """`[V * T, r]` -> `[V, T * r]`."""
    return value.reshape(-1, frames * value.shape[1])
