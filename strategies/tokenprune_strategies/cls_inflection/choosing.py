"""From scores and bounds to the tokens that are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune_strategies.baselines import spaced
from tokenprune_strategies.cls_inflection.knees import bend, is_flat


def head(score: Tensor, rule: str, window: int, least: int, most: int) -> Tensor:
    """The highest scores up to the curve's bend, `[N]` bool; ties go to the lower index.

    A flat curve keeps `least` evenly spaced tokens.

    Args:
        score: `[N]`.
        rule: see `bend`.
        window: of the smoothing.
        least: smallest number to keep.
        most: largest number to keep; `least` or more, N or less.
    """
    kept = torch.zeros_like(score, dtype=torch.bool)
    if not len(score) or not most:
        return kept
    curve, order = torch.sort(score.double(), descending=True, stable=True)
    if is_flat(curve):
        index = spaced(len(score), least, score.device)
    else:
        index = order[: min(max(bend(curve, rule, window, max(least, 1)), least), most)]
    return kept.index_fill(0, index, True)


def words(
    score: Tensor, asking: Tensor, shielded: Tensor, rule: str, window: int, share: float, keep: int
) -> Tensor:
    """The text tokens of a prompt that are kept, `[N]` bool.

    What isn't shielded of the question is cut at the bend of its own curve, but no deeper than to
    `share` of the question. What must be kept may be more than `keep`; nothing else is then.

    Args:
        score: `[N]`.
        asking: `[N]` True for the question; the rest of the text is kept.
        shielded: `[N]` True for tokens that are never dropped.
        rule: see `bend`.
        window: of the smoothing.
        share: least part of the question that is kept.
        keep: number to keep, at most.
    """
    free = asking & ~shielded
    sure, able = int((~free).sum()), int(free.sum())
    wanted = int(torch.ceil(share * asking.sum().double() - 1e-9))
    least = min(max(wanted - int((asking & shielded).sum()), 0), able)
    most = min(max(keep - sure, least), able)
    kept = ~free
    kept[free] = head(score[free], rule, window, least, most)
    return kept
