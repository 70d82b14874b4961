"""STTM: a quadtree in every frame, whose nodes then merge over neighbouring frames."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune.errors import BudgetError
from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.labels import firsts, means


class SttmParams(StrategyParams):
    """Parameters of `sttm`."""

    tau_space: float = Field(
        default=0.85,
        ge=-1,
        le=1,
        description="Cosine that all quarters of a block need with its mean, to become one token.",
    )
    tau_time: float | None = Field(
        default=0.65,
        ge=-1,
        le=1,
        description="Cosine from which nodes of neighbouring frames merge; null for none.",
    )
    root: int = Field(
        default=1,
        ge=0,
        description="Levels of the tree above its roots: with 0, a frame is about 2 x 2 roots.",
    )


class Sttm(PruningStrategy[SttmParams]):
    """Inside the LLM: blocks of a frame, as large as what they show is alike, and then over time.

    Source: STTM (arXiv 2507.07990), and notes on its code.
    """

    name = "sttm"
    Params = SttmParams
    stages = (Decoder(layer=2),)
    length = "own"
    about = About(
        summary="Merges blocks of a frame by a quadtree, then alike blocks of neighbouring frames.",
        paper="Multi-Granular Spatio-Temporal Token Merging (STTM), arXiv 2507.07990",
        licence="Written from method notes; the reference code has no licence, none was used.",
        ours={},
        borrowed={
            "tau_space": "the code's",
            "tau_time": "the code's",
            "root": "the code's",
        },
    )

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Its thresholds are its budget.

        Raises:
            BudgetError: another budget is given.
        """
        if budget.keep < budget.count:
            raise BudgetError(
                "sttm leaves as many tokens as its thresholds tell blocks apart.",
                where=str(site),
                remedy="Leave 'keep' out, and write params: {tau_space: 0.8, tau_time: 0.6}.",
                nearest=budget.count,
            )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Sample by sample."""
        samples = zip(tokens.hidden, tokens.position, strict=True)
        return Reduction.ragged([self._one(*one, tokens.grid) for one in samples])

    def _one(self, hidden: Tensor, position: Tensor, grid: Grid) -> Reduction:
        """The answer for one sample, from its states `[N, D]` and (t, h, w) `[N, 3]`."""
        node, states = quadtree(hidden.float(), position, grid, self.params)
        if self.params.tau_time is not None:
            joined = linked(pairs(node, position, grid), states, self.params.tau_time)
            states, node = means(states, joined), joined[node]
        # a token stands where the first of its own stood
        first = firsts(node)
        order = first.argsort()
        slot = order.argsort()[node]
        created = states[order].to(hidden.dtype)
        return Reduction.replace(created[None], slot[None], anchor=first[order][None])


def quadtree(
    states: Tensor, position: Tensor, grid: Grid, params: SttmParams
) -> tuple[Tensor, Tensor]:
    """The node of every token `[N]`, and the states of the nodes `[M, D]`.

    A level's cell is the mean of its up to four cells of the level below.
    """
    cell = torch.arange(len(states), device=states.device)
    (frame, row, column), (_, high, wide) = position.unbind(-1), grid
    levels, cells, alike = [states], [cell], [torch.ones_like(cell, dtype=torch.bool)]
    for _ in range(heights(high, wide) - params.root):
        # an odd side has its first row or column for itself
        row, column = (row + high % 2) // 2, (column + wide % 2) // 2
        high, wide = (high + 1) // 2, (wide + 1) // 2
        above = torch.unique((frame * high + row) * wide + column, return_inverse=True)[1]
        parent = above[firsts(cells[-1])]
        mean = means(levels[-1], parent)
        near = cosine_similarity(levels[-1], mean[parent], dim=-1) >= params.tau_space
        far = torch.bincount(parent[~near], minlength=len(mean))
        levels.append(mean)
        cells.append(above)
        alike.append(far[above] == 0)
    # from the roots down, the first cell that is alike is a node; single tokens always are
    level = max_true(torch.stack(alike))
    begin = torch.tensor([0, *(len(one) for one in levels)], device=cell.device).cumsum(0)
    number = begin[level] + torch.stack(cells).gather(0, level[None])[0]
    found, node = torch.unique(number, return_inverse=True)
    return node, torch.cat(levels)[found]


def heights(high: int, wide: int) -> int:
    """How often a frame is halved until one of its sides is two cells or fewer."""
    count = 0
    while min(high, wide) > 2 or (min(high, wide) == 1 and max(high, wide) > 2):
        high, wide, count = (high + 1) // 2, (wide + 1) // 2, count + 1
    return count


def pairs(node: Tensor, position: Tensor, grid: Grid) -> Tensor:
    """Nodes of neighbouring frames that share a place, so that one holds the other: `[L, 2]`."""
    frames, high, wide = grid
    at = node.new_full((frames, high * wide), -1)
    at[position[:, 0], position[:, 1] * wide + position[:, 2]] = node
    both = torch.stack((at[:-1], at[1:]), dim=-1).flatten(0, 1)
    found: Tensor = torch.unique(both[(both >= 0).all(dim=-1)], dim=0)
    return found


def linked(pair: Tensor, states: Tensor, tau: float) -> Tensor:
    """Component `[M]` of every node; pairs `[L, 2]` with a cosine from `tau` on are linked."""
    one, other = pair.T
    near = cosine_similarity(states[one], states[other], dim=-1) >= tau
    one, other = one[near], other[near]
    least = torch.arange(len(states), device=states.device)
    while True:
        # the lower label of each link, and then that label's own
        low = torch.minimum(least[one], least[other])
        lower = least.scatter_reduce(0, one, low, "amin").scatter_reduce(0, other, low, "amin")
        lower = lower[lower]
        if torch.equal(lower, least):
            label: Tensor = torch.unique(least, return_inverse=True)[1]
            return label
        least = lower


def max_true(flags: Tensor) -> Tensor:
    """The last of the flags `[L, N]` that is true, by column: `[N]`."""
    number = torch.arange(len(flags), device=flags.device)[:, None]
    return torch.where(flags, number, 0).amax(dim=0)
