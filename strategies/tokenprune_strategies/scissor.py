"""LLaVA-Scissor: connected components of tokens that are alike, frame by frame and over a video."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import merge_compact, sum_compact
from tokenprune_strategies.shared.cosine import cosines
from tokenprune_strategies.shared.labels import firsts, means


class ScissorParams(StrategyParams):
    """Parameters of `scissor`."""

    tau: float = Field(
        default=0.95, ge=-1, le=1, description="Cosine above which two tokens are connected."
    )


class Scissor(PruningStrategy[ScissorParams]):
    """Before the LLM, on projected tokens: one token for each connected component.

    Source: LLaVA-Scissor (arXiv 2506.21862, section 3), and notes on its code.
    """

    name = "scissor"
    Params = ScissorParams
    stages = (PreLlm(projected=True),)
    length = "own"
    about = About(
        summary="One token for each group of alike ones, of every frame and then of the video.",
        paper="LLaVA-Scissor, arXiv 2506.21862",
        licence="Written from method notes; the reference code is for non-commercial use, none was "
        "copied.",
        ours={},
        borrowed={"tau": "the code's"},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Sample by sample; `budget.keep` tokens at most if the plan gives a budget."""
        if budget.given and not budget.remove:
            return Reduction.none()
        most = budget.keep if budget.given else tokens.count
        frames = tokens.position[..., 0]
        return Reduction.ragged(
            [
                self._one(states, frame, most, tokens.hidden.dtype)
                for states, frame in zip(tokens.hidden.float(), frames, strict=True)
            ]
        )

    def _one(self, states: Tensor, frame: Tensor, most: int, dtype: torch.dtype) -> Reduction:
        """The answer for one sample, from its states `[N, D]` and frames `[N]`."""
        inside = torch.zeros_like(frame)
        for number in torch.unique(frame):
            mine = (frame == number).nonzero()[:, 0]
            inside[mine] = linked(states[mine], self.params.tau) + inside.max() + 1
        inside = inside - 1
        groups = means(states, inside)
        over = linked(groups, self.params.tau)
        joined = over[inside]
        kept = largest(joined, most)
        centre = means(groups, over)[kept]
        # Every token joins the nearest representative, its own component's or not.
        alike = normalize(states, dim=-1) @ normalize(centre, dim=-1).T
        slot = alike.argmax(dim=1)[None]
        ones = torch.ones_like(slot, dtype=torch.float32)
        count = sum_compact(ones, slot, len(kept))[..., None]
        members = merge_compact(states[None], slot, ones, len(kept))
        created = (centre + count * members) / (1 + count)
        return Reduction.replace(created.to(dtype), slot, anchor=firsts(joined)[kept][None])


def linked(states: Tensor, tau: float) -> Tensor:
    """Component `[N]` of each of the states `[N, D]`; a cosine above `tau` connects two."""
    return components(cosines(states[None])[0] > tau)


def components(alike: Tensor) -> Tensor:
    """Connected components of a graph.

    Args:
        alike: `[N, N]` bool, symmetric.

    Returns:
        `[N]` int64, numbered by the lowest token of each.
    """
    every = torch.arange(len(alike), device=alike.device)
    reach = alike | (every[:, None] == every)
    least = every
    while True:
        # The lowest label among the neighbours, and then that label's own.
        lower = torch.where(reach, least, len(alike)).amin(dim=1)
        lower = lower[lower]
        if torch.equal(lower, least):
            label: Tensor = torch.unique(least, return_inverse=True)[1]
            return label
        least = lower


def largest(label: Tensor, most: int) -> Tensor:
    """The labels of most tokens, `most` of them at most, ascending; ties go to the lower label."""
    order = torch.bincount(label).argsort(descending=True, stable=True)
    return order[:most].sort().values
