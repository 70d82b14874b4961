"""IPCV: prune early in the encoder, reconstruct the dropped tokens where they are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.errors import LayerError
from tokenprune.interface.about import About
from tokenprune.interface.placement import Encoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import take, topk_indices
from tokenprune_strategies.shared.indexing import complement

FIRST_LAYER = 2


class IPCVParams(StrategyParams):
    """Parameters of `ipcv`."""

    stabilise: int = Field(
        default=5,
        ge=0,
        description="Attention stabilisation: for so many blocks, from the site's on, attention "
        "sees reconstructed states of the dropped tokens.",
    )
    neighbours: int = Field(
        default=10, ge=1, description="k: kept tokens whose mean update a dropped token follows."
    )


class IPCV(PruningStrategy[IPCVParams]):
    """Keep the tokens that the block before changed most; let the others follow their neighbours.

    Source: IPCV (arXiv 2512.18747) and its official code's order of steps. The scope of selection
    and of the neighbour search is one image (ours), so that a batch gives what its images give
    alone.
    """

    name = "ipcv"
    Params = IPCVParams
    stages = (Encoder(where="before", layer=3, restores=True),)
    about = About(
        summary="Prunes early in the encoder and restores all tokens after it.",
        paper="IPCV, arXiv 2512.18747",
        licence="Written from method notes; the reference code is Apache-2.0, none of it was "
        "copied.",
        ours={
            "stabilise": "the official scripts use 7 (Qwen2-VL) and 3 (InternVL3); 5 is for CLIP",
        },
        borrowed={"neighbours": "the code's"},
    )

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """The score compares the inputs of two blocks, and the first block's is never taken.

        Raises:
            LayerError: the layer is below 2.
        """
        if site.layer < FIRST_LAYER:
            raise LayerError(
                f"ipcv can't prune before block {site.layer}: it needs the input of the block "
                "before, and the first block's is left out.",
                where=str(site),
                remedy=f"Use layer {FIRST_LAYER} or a later one; the default is 3.",
            )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """What entered the block before."""
        return (Signal.PREVIOUS_HIDDEN,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep `budget.keep` tokens by how far the block before moved them."""
        score = movement(tokens.hidden, tokens.signal(Signal.PREVIOUS_HIDDEN))
        index = topk_indices(score, budget.keep)
        memory = remember(tokens.hidden, index, self.params.neighbours, self.params.stabilise)
        return Reduction.keep(index, tokens.count, score=score, reconstruction=memory)


def movement(hidden: Tensor, previous: Tensor) -> Tensor:
    """`||H_i - H'_i||_2` in float32, `[B, N]`."""
    return (hidden.float() - previous.float()).square().sum(-1).sqrt()


@dataclass(frozen=True)
class NeighbourReconstruction:
    """Dropped tokens move like the mean of their nearest kept neighbours (NGR).

    Attributes:
        anchors: states of the kept tokens when the others were dropped, `[B, K, D]`.
        lost: states of the dropped tokens then, `[B, R, D]`.
        adjacency: 1 where a kept token is a neighbour of a dropped one, `[B, R, K]`.
        neighbours: ones in each row of `adjacency`.
        place: where every token stands in kept-then-dropped order, `[B, N]`.
        blocks: for how many blocks attention sees the full set.
        restore: always true: the full set goes on after the last used block.
    """

    anchors: Tensor
    lost: Tensor
    adjacency: Tensor
    neighbours: int
    place: Tensor
    blocks: int
    restore: bool = True

    def full(self, hidden: Tensor) -> Tensor:
        """Kept states `[B, K, D]` -> states of all tokens `[B, N, D]`; kept rows unchanged."""
        moved = hidden - self.anchors
        guess = self.lost + self.adjacency @ moved / self.neighbours
        return take(torch.cat((hidden, guess), dim=1), self.place)


def remember(hidden: Tensor, kept: Tensor, neighbours: int, blocks: int) -> NeighbourReconstruction:
    """Find the nearest kept tokens of every dropped one.

    Args:
        hidden: states of all tokens, `[B, N, D]`; distances are Euclidean, in float32.
        kept: `[B, K]`, ascending.
        neighbours: k; all kept tokens if there are fewer.
        blocks: how long attention sees the full set.
    """
    dropped = complement(kept, hidden.shape[1])
    anchors, lost = take(hidden, kept), take(hidden, dropped)
    # The matrix-product form of cdist loses near duplicates to cancellation.
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(lost.float(), anchors.float(), compute_mode=exact)
    used = min(neighbours, kept.shape[1])
    near = topk_indices(-distance.flatten(0, 1), used).view(*distance.shape[:2], used)
    adjacency = torch.zeros_like(distance, dtype=hidden.dtype).scatter(2, near, 1.0)
    place = torch.cat((kept, dropped), dim=1).argsort(dim=1)
    return NeighbourReconstruction(anchors, lost, adjacency, used, place, blocks, restore=True)
