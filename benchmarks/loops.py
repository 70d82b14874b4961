"""The greedy selections as plain loops, written down as they are defined, one sample at a time.

Tests hold `tokenprune.ops` to their picks, and `benchmarks.ops --loops` measures how much faster it
is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune import ops

SIZES = ((576, 64), (2880, 320))
"""Tokens and picks: LLaVA at a ninth, LLaVA-NeXT with five tiles at a ninth."""

Call = Callable[[], object]


def max_min_select(distance: Tensor, k: int) -> list[int]:
    """DivPrune: `distance` `[N, N]`; the minimum over the chosen rows is taken anew each time."""
    chosen: list[int] = []
    for _ in range(k):
        if chosen:
            score = distance[chosen].min(0).values
        else:
            score = distance.clone().fill_diagonal_(torch.inf).min(0).values
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


def cases(tokens: int, picks: int, width: int = 512) -> dict[str, tuple[Call, Call]]:
    """For every operation the loop and the operation on the same features, one sample.

    The features lie around `tokens // 16` points. Matrices of pairs are not part of the time;
    `cluster_dpc` takes its distances itself.
    """
    torch.manual_seed(0)
    middle = torch.randn(tokens // 16 + 1, width)
    x = middle[torch.randint(len(middle), (tokens,))] + torch.randn(tokens, width)
    cosine = normalize(x, dim=-1) @ normalize(x, dim=-1).T
    quality = torch.rand(tokens)
    distance, kernel = 1 - cosine, quality[:, None] * cosine * quality
    return {
        "max_min_select": (
            lambda: max_min_select(distance, picks),
            lambda: ops.max_min_select(distance[None], picks)[0].tolist(),
        ),
        "dpp_select": (
            lambda: dpp_select(kernel, picks),
            lambda: ops.dpp_select(kernel[None], picks)[0].tolist(),
        ),
        "coverage_select": (
            lambda: coverage_select(cosine, picks),
            lambda: ops.coverage_select(cosine[None], picks)[0].tolist(),
        ),
        "cluster_dpc": (
            lambda: cluster_dpc(x, picks, 7),
            lambda: tuple(t[0].tolist() for t in ops.cluster_dpc(x[None], picks, neighbours=7)),
        ),
    }


def measure(
    sizes: Sequence[tuple[int, int]], rounds: int, least: float = 5.0
) -> list[dict[str, Any]]:
    """One row for every size and operation: medians in seconds, and the ratios of the turns.

    The loop and the operation take turns, so that what else the machine does falls on both; there
    are `rounds` turns or more, until `least` seconds are over, because on a busy machine a few
    turns of a millisecond each say nothing.
    """
    rows = []
    for tokens, picks in sizes:
        for name, (loop, call) in cases(tokens, picks).items():
            call()
            turns: list[tuple[tuple[float, object], tuple[float, object]]] = []
            start = perf_counter()
            while len(turns) < rounds or perf_counter() - start < least:
                turns.append((_timed(loop), _timed(call)))
            ratios = [slow[0] / fast[0] for slow, fast in turns]
            low, middle, high = quantiles(ratios, n=4, method="inclusive")
            row: dict[str, Any] = {"op": name, "tokens": tokens, "picks": picks}
            row |= {
                "loop": median(slow[0] for slow, _ in turns),
                "fast": median(fast[0] for _, fast in turns),
                "turns": len(turns),
                "ratio": middle,
                "quartiles": [low, high],
                "same": all(slow[1] == fast[1] for slow, fast in turns),
            }
            rows.append(row)
    return rows


def _timed(call: Call) -> tuple[float, object]:
    start = perf_counter()
    answer = call()
    return perf_counter() - start, answer
