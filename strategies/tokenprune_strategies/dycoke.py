"""DyCoke, first stage: in windows of four frames, what repeats the frame before leaves."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.frames import by_frame
from tokenprune_strategies.shared.ranking import place_in_group

_BEFORE = (0, 1, 2, 1)
"""How many frames before the one that each frame of a window is compared with is; 0: none."""


class DyCokeParams(StrategyParams):
    """Parameters of `dycoke`."""

    ratio: float = Field(
        default=0.7,
        ge=0,
        lt=1,
        description="Share of a frame's tokens that leaves, those most like the frame that it is "
        "compared with.",
    )


class DyCoke(PruningStrategy[DyCokeParams]):
    """Before the LLM, on projected tokens: temporal merging of a video, window by window.

    Source: DyCoke (arXiv 2411.15024, section 3.2), and notes on its code. Its second stage chooses
    cached keys anew at every decoding step, and is left out.
    """

    name = "dycoke"
    Params = DyCokeParams
    stages = (PreLlm(projected=True),)
    length = "own"
    about = About(
        summary="Drops what three of four frames repeat of an earlier one.",
        paper="DyCoke, arXiv 2411.15024",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep whole frames, and what is least like before of the others, in raster order."""
        frame = tokens.position[..., 0]
        score = novelty(tokens)
        place = place_in_group(score, frame)
        total = by_frame(torch.ones_like(frame), tokens).sum(dim=2).gather(1, frame)
        stay = ((1 - self.params.ratio) * total.double() + 1e-9).floor()
        kept = (frame % len(_BEFORE) == 0) | (place < stay)
        if budget.given:
            best = score.masked_fill(~kept, -torch.inf).argsort(dim=1, descending=True, stable=True)
            kept = kept & (best.argsort(dim=1) < budget.keep)
        return Reduction.keep_mask(kept, score=score)


def novelty(tokens: Tokens) -> Tensor:
    """How unlike every token is to that at its place in the frame that it is compared with.

    1 - cosine, `[B, N]`; 2, the largest, for frames that are kept whole.
    """
    states = by_frame(tokens.hidden.float(), tokens)
    number = torch.arange(states.shape[1], device=states.device)
    before = number.new_tensor(_BEFORE)[number % len(_BEFORE)]
    found = 1 - cosine_similarity(states, states[:, number - before], dim=-1)
    found = torch.where((before == 0)[:, None], 2.0, found)
    return found.flatten(1).gather(1, tokens.index)
