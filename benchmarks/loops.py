"""The greedy selections as plain loops, written down as they are defined, one sample at a time.

Tests hold `tokenprune.ops` to their picks, and `benchmarks.ops` measures how much faster it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def max_min_select(distance: Tensor, k: int) -> list[int]:
    """DivPrune: `distance` `[N, N]`; the minimum over the chosen rows is taken anew each time."""
    chosen: list[int] = []
    for _ in range(k):
        if chosen:
            score = distance[chosen].amin(0)
        else:
            others = distance.clone().fill_diagonal_(torch.inf)
            score = others.amin(0)
        score[chosen] = -torch.inf
        chosen.append(int(score.argmax()))
    return chosen


def dpp_select(kernel: Tensor, k: int) -> list[int]:
    """CDPruner: `kernel` `[N, N]`; incremental in its released form already."""
    rest = kernel.diagonal().clone()
    factor = kernel.new_zeros(k, len(kernel))
    chosen: list[int] = []
    for step in range(k):
        pick = int(rest.argmax())
        row = kernel[pick] - torch.einsum("t,tn->n", factor[:step, pick], factor[:step])
        factor[step] = row / rest[pick].sqrt()
        rest = rest - factor[step].square()
        chosen.append(pick)
        rest[chosen] = -torch.inf
    return chosen


def coverage_select(cover: Tensor, k: int) -> list[int]:
    """SCOPE and MMTok: `cover` `[M, N]`; what every token would add is taken anew each time."""
    covered = cover.new_zeros(len(cover))
    chosen: list[int] = []
    for _ in range(k):
        score = (cover - covered[:, None]).clamp(min=0.0).sum(0)
        score[chosen] = -torch.inf
        pick = int(score.argmax())
        covered = torch.maximum(covered, cover[:, pick])
        chosen.append(pick)
    return chosen


def cluster_dpc(x: Tensor, count: int, neighbours: int) -> tuple[list[int], list[int]]:
    """PruneVid, stage 1: `x` `[N, D]`; token by token. Centres ascending, and all labels."""
    away = [(x - one).square().sum(1).sqrt() / x.shape[1] ** 0.5 for one in x]
    spread = [float(row.square().sort().values[:neighbours].mean()) for row in away]
    farthest = max(float(row.max()) for row in away)
    score = []
    for i, row in enumerate(away):
        denser = [j for j, other in enumerate(spread) if (other, j) < (spread[i], i)]
        distance = row[denser].min() if denser else torch.tensor(farthest)
        score.append(float(distance.log() - spread[i]))
    centre = sorted(sorted(range(len(x)), key=lambda i: (-score[i], i))[:count])
    label = [int(row[centre].argmin()) for row in away]
    for own, i in enumerate(centre):
        label[i] = own
    return centre, label
