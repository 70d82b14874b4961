"""Version 2.0: the heads that look at the image most, what position alone gives divided out."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.ops import topk_indices

TINY = 1e-6
"""Least size of what is divided by (ours): the logits of position may cross zero."""


def without_position(weights: Tensor, rotation: Tensor) -> Tensor:
    """Softmax weights over the logits that position alone gives, as the code divides them.

    Args:
        weights: `[B, S, H, N]`.
        rotation: `[B, S, N]`.
    """
    sign = torch.where(rotation < 0, -1.0, 1.0)
    divisor = torch.where(rotation.abs() < TINY, sign * TINY, rotation)
    return weights.float() / divisor[:, :, None]


def seen_by_best_heads(weights: Tensor, chosen: Tensor, heads: int) -> Tensor:
    """What visual tokens get from the raters in the heads in which they get most.

    Args:
        weights: `[B, S, H, N]`.
        chosen: `[B, S]` True for raters; without any all scores are 0, as in `rated`.
        heads: how many heads; ties: the lower number.

    Returns:
        `[B, N]`, mean over raters and heads.
    """
    raters = chosen.float()
    total = (weights * raters[:, :, None, None]).sum(dim=1)
    rows = total / raters.sum(dim=1).clamp(min=1.0)[:, None, None]
    best = topk_indices(rows.sum(dim=-1), heads)
    return rows.gather(1, best[..., None].expand(-1, -1, rows.shape[-1])).mean(dim=1)
