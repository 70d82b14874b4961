"""The two scans of VScan and the merging of what they leave over."""

from __future__ import annotations

from math import ceil, floor
from typing import Literal

import torch
from torch import Tensor

from tokenprune.ops import topk_indices
from tokenprune_strategies.shared.ranking import place_in_group


def local_scan(
    score: Tensor, window: Tensor, windows: int, budget: int, quota: Literal["ceil", "floor"]
) -> Tensor:
    """The best tokens of every window, at most `budget` in all: `[B, N]` bool.

    Args:
        score: `[B, N]`, of a shallow block.
        window: `[B, N]` in 0..windows-1.
        windows: how many there are, empty ones included.
        budget: tokens for the local scan.
        quota: tokens of a window are `budget / windows`, rounded like this.
    """
    most = ceil(budget / windows) if quota == "ceil" else floor(budget / windows)
    eligible = place_in_group(score, window) < most
    chosen = topk_indices(score.float().masked_fill(~eligible, -torch.inf), budget)
    return torch.zeros_like(eligible).scatter(1, chosen, True) & eligible


def select(local: Tensor, score: Tensor, keep: int) -> Tensor:
    """Local picks and the best of the others, `[B, keep]` ascending.

    As many others as are missing, so that the count is exact (ours).

    Args:
        local: `[B, N]` bool, at most `keep` a sample.
        score: `[B, N]`, of the last block.
        keep: tokens in all.
    """
    return topk_indices(score.float().masked_fill(local, torch.inf), keep)
