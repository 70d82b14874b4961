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
    score: Tensor, asking: Tensor, last: Tensor, rule: str, window: int, share: float, keep: int
) -> Tensor:
    """The text tokens of a prompt that are kept, `[N]` bool.

    The last ones and those in front of the image are kept; the rest of the question is cut at the
    bend of its own curve, but no deeper than to `share` of the question. Where `keep` is too small
    for that, it gives up the question first, then the text in front of the image from its end on,
    then the last tokens from their start on.

    Args:
        score: `[N]`, in the order of the prompt.
        asking: `[N]` True for the question.
        last: `[N]` True for the last tokens of the prompt.
        rule: see `bend`.
        window: of the smoothing.
        share: least part of the question that is kept.
        keep: number to keep, at most.
    """
    free = asking & ~last
    sure, able = int((~free).sum()), int(free.sum())
    kept = ~free
    if sure > keep:
        place = torch.arange(len(score), device=score.device)
        rank = torch.where(last, len(score) - place, len(score) + place)
        order = torch.sort(rank.masked_fill(free, 3 * len(score)), stable=True).indices
        return torch.zeros_like(kept).index_fill(0, order[:keep], True)
    wanted = int(torch.ceil(share * asking.sum().double() - 1e-9))
    most = min(keep - sure, able)
    least = min(max(wanted - int((asking & last).sum()), 0), most)
    kept[free] = head(score[free], rule, window, least, most)
    return kept
