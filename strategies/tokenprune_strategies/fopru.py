"""FoPru: keep the tokens that stand out in the vision encoder's own attention."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices

_SIGNALS = {
    "softmax": (Signal.ATTENTION_RECEIVED, Signal.ATTENTION_GIVEN),
    "logits": (Signal.LOGITS_RECEIVED, Signal.LOGITS_GIVEN),
}


class FoPruParams(StrategyParams):
    """Parameters of `fopru`."""

    strategy: Literal["rank", "row"] = Field(
        default="rank", description="Keep the best tokens, or the best rows of the patch grid."
    )
    scores: Literal["softmax", "logits"] = Field(
        default="softmax",
        description="Read attention weights, or the scaled logits before the softmax.",
    )
    direction: Literal["variance", "received", "given"] = Field(
        default="variance",
        description="Score by attention received, by attention given, or by the one of the two "
        "that varies more over the image.",
    )


class FoPru(ScoreStrategy[FoPruParams]):
    """Score patches by the attention map of the feature layer, keep the best, in raster order.

    Source: FoPru (arXiv 2411.14164); the variance rule and the row sums are known from summaries
    and from an engine of the same authors, not from the paper's text. Rows follow the patch grid,
    so they stay meaningful where earlier stages took tokens out; if the budget is no multiple of a
    row, the last row is filled by rank, which is ours.
    """

    name = "fopru"
    Params = FoPruParams
    stages = (PreLlm(maps=True), Encoder())
    about = About(
        summary="Drops tokens by the vision encoder's attention, by rank or by row.",
        paper="FoPru: Focal Pruning, arXiv 2411.14164",
        licence="Written from method notes; no official code was found.",
        ours={
            "strategy": "the paper offers both as alternatives and names no default",
            "scores": "summaries of the paper speak of attention weights, related code of logits",
        },
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Attention received and given, as far as the direction needs them."""
        received, given = _SIGNALS[self.params.scores]
        single = {"received": (received,), "given": (given,)}
        return single.get(self.params.direction, (received, given))

    def score(self, tokens: Tokens) -> Tensor:
        """Significance of every token, `[B, N]`."""
        parts = [tokens.signal(signal) for signal in self.signals(tokens.site)]
        return parts[0] if len(parts) == 1 else more_varied(parts[0], parts[1])

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens."""
        score = self.score(tokens)
        if self.params.strategy == "rank":
            index = topk_indices(score, budget.keep)
        else:
            index = best_rows(score, row_numbers(tokens), _row_count(tokens), budget.keep)
        return Reduction.keep(index, tokens.count, score=score)


def more_varied(received: Tensor, given: Tensor) -> Tensor:
    """Of two scores `[B, N]` the one with the larger variance, image by image; ties: the first."""
    wider = given.float().var(1, correction=0) > received.float().var(1, correction=0)
    return torch.where(wider[:, None], given, received)


def row_numbers(tokens: Tokens) -> Tensor:
    """Row of the patch grid that every token stands in, frames one below another, `[B, N]`."""
    return tokens.position[..., 0] * tokens.grid[1] + tokens.position[..., 1]


def _row_count(tokens: Tokens) -> int:
    return tokens.grid[0] * tokens.grid[1]


def best_rows(score: Tensor, row: Tensor, rows: int, keep: int) -> Tensor:
    """Whole rows by the sum of their scores, then the best tokens of the next row.

    Args:
        score: `[B, N]`.
        row: `[B, N]` int64 in 0..rows-1.
        rows: number of rows.
        keep: number of tokens K.

    Returns:
        Indices `[B, K]`, ascending; ties go to the upper row and the lower index.
    """
    number = torch.arange(rows, device=score.device)
    # A sum over a mask, not scatter_add, whose order of summation isn't fixed on CUDA.
    inside = row[:, None, :] == number[:, None]
    sums = torch.where(inside, score.float()[:, None, :], 0.0).sum(-1)
    place = torch.sort(sums, dim=1, descending=True, stable=True).indices.argsort(dim=1)
    by_score = torch.sort(score, dim=1, descending=True, stable=True).indices
    by_row = torch.sort(place.gather(1, row).gather(1, by_score), dim=1, stable=True).indices
    return by_score.gather(1, by_row[:, :keep]).sort(dim=1).values
