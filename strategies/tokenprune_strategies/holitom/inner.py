"""The stage inside the LLM: what is dropped goes into what is most like it."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.interface.reduction import Reduction
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import sum_compact, topk_indices
from tokenprune_strategies.shared.joining import most_similar
from tokenprune_strategies.shared.ranking import place_in_group


def halved(tokens: Tokens, score: Tensor, keep: int) -> Reduction:
    """Keep the tokens with the largest scores; each of the others is merged into one of them.

    In ascending order every dropped token y turns its kept one x into (x + y) / 2, so later ones
    weigh more. As one mean: with m dropped tokens, the i-th of them weighs 2^(i - 1 - m) and x
    itself 2^-m.

    Args:
        tokens: what arrived.
        score: `[B, N]`.
        keep: tokens K.
    """
    kept = topk_indices(score, keep)
    slot = most_similar(tokens.hidden, kept)
    stays = torch.zeros_like(slot, dtype=torch.bool).scatter(1, kept, torch.ones_like(kept) > 0)
    number = torch.arange(tokens.count, device=slot.device).expand_as(slot)
    later = place_in_group(number, torch.where(stays, keep, slot))
    dropped = sum_compact((~stays).float(), slot, keep).gather(1, slot)
    power = torch.where(stays, dropped, later + 1.0)
    return Reduction(anchor=kept, slot=slot, weight=0.5**power, score=score)
