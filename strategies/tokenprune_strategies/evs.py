"""EVS: of a video's frames, what changed since the frame before."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices
from tokenprune_strategies.shared.frames import by_frame

_FIRST = 255.0
"""Score of the first frame's tokens, as in vLLM; cosines change by 2 at most."""


class EVSParams(StrategyParams):
    """`evs` has no parameters: the budget stands in the plan."""


class EVS(PruningStrategy[EVSParams]):
    """Before the LLM, on projected tokens: the first frame, and what is least like before.

    Source: Efficient Video Sampling (arXiv 2510.14624), and notes on vLLM's code.
    """

    name = "evs"
    Params = EVSParams
    stages = (PreLlm(projected=True),)
    about = About(
        summary="Keeps a video's first frame and what changed most since the frame before.",
        paper="Efficient Video Sampling (EVS), arXiv 2510.14624",
        licence="Written from method notes; vLLM's code is under Apache-2.0 with a restrictive "
        "notice, none was used.",
        ours={},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        states = by_frame(tokens.hidden.float(), tokens)
        change = 1 - cosine_similarity(states[:, 1:], states[:, :-1], dim=-1)
        change = torch.cat((torch.zeros_like(states[:, :1, :, 0]), change), dim=1)
        first = tokens.position[..., 0] == 0
        score = torch.where(first, _FIRST, change.flatten(1).gather(1, tokens.index))
        score = score + evenly(first, budget.keep)
        return Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)


def evenly(first: Tensor, keep: int) -> Tensor:
    """1 for `keep` evenly spaced ones of the first frame's tokens, else 0, `[B, N]`.

    For all of them if the budget holds them, which is all that vLLM allows.

    Args:
        first: `[B, N]` True for tokens of the first frame.
        keep: tokens in all.
    """
    rank = first.cumsum(dim=1)
    total = first.sum(dim=1, keepdim=True).clamp(min=1)
    taken = rank * keep // total > (rank - 1) * keep // total
    return (first & taken).float()
