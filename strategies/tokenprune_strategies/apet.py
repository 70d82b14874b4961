"""ApET: the tokens that a few others approximate worst."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import bipartite_match, merge_compact, take
from tokenprune_strategies.shared.assembly import Made, assembled
from tokenprune_strategies.shared.indexing import complement
from tokenprune_strategies.shared.spread import farthest

_RIDGE = 1e-5
"""Added to the diagonal of the basis' products, the code's."""


class ApETParams(StrategyParams):
    """Parameters of `apet`."""

    basis: int = Field(
        default=10,
        ge=1,
        description="Tokens that the others are approximated by; fewer if the budget is smaller.",
    )


class ApET(PruningStrategy[ApETParams]):
    """Before the LLM: keep what a basis can't tell, put the basis beside it, merge the rest.

    Source: ApET (arXiv 2602.19870, section 3), and notes on its code.
    """

    name = "apet"
    Params = ApETParams
    stages = (PreLlm(),)
    about = About(
        summary="Keeps tokens that a few distant ones approximate worst, merges the others.",
        paper="ApET: Approximation-Error Guided Token Compression, arXiv 2602.19870",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours={},
        borrowed={"basis": "the code's"},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Leave exactly `budget.keep` tokens, in raster order."""
        if not budget.remove:
            return Reduction.none()
        hidden, keep = tokens.hidden.float(), budget.keep
        chosen = spread(hidden, min(self.params.basis, keep))
        error = residual(hidden, take(hidden, chosen))
        order = error.argsort(dim=1, descending=True, stable=True)[:, :keep]
        targets, seats = order.tensor_split([keep - chosen.shape[1]], dim=1)
        made = merged(hidden, targets.sort(dim=1).values, seats.sort(dim=1).values, chosen)
        return assembled(tokens, targets[:, :0], made, "raster", score=error)


def merged(hidden: Tensor, targets: Tensor, seats: Tensor, basis: Tensor) -> Made:
    """Targets with the tokens that join them, and the basis at other tokens' places.

    Args:
        hidden: `[B, N, D]`.
        targets: `[B, t]` tokens that others join by cosine, ascending; without any, these are
            dropped.
        seats: `[B, b]` tokens whose places the basis takes, ascending.
        basis: `[B, b]` tokens, in the order in which they take the places.
    """
    place = torch.cat((targets, seats), dim=1)
    own = torch.arange(place.shape[1], device=place.device).expand_as(place)
    states, member, joins = take(hidden, basis), place, own
    count = targets.shape[1]
    if count:
        rest = complement(place.sort(dim=1).values, hidden.shape[1])
        _, near = bipartite_match(take(hidden, rest), take(hidden, targets))
        together, label = (
            torch.cat((targets, rest), dim=1),
            torch.cat((own[:, :count], near), dim=1),
        )
        ones = torch.ones_like(together, dtype=torch.float32)
        mean = merge_compact(take(hidden, together), label, ones, count)
        states = torch.cat((mean, states), dim=1)
        member, joins = torch.cat((member, rest), dim=1), torch.cat((joins, near), dim=1)
    return Made(states, place, member, joins)


def spread(hidden: Tensor, count: int) -> Tensor:
    """Tokens far from each other, in raster order, `[B, count]`.

    The first is the longest one (ours; the code draws it). Ties go to the lower index.
    """
    longest = hidden.square().sum(dim=-1).argmax(dim=1)
    return farthest(hidden, longest, count).sort(dim=1).values


def residual(hidden: Tensor, basis: Tensor) -> Tensor:
    """Distance of every token `[B, N, D]` from its best approximation by a basis `[B, b, D]`."""
    # beside the squares of long tokens float32 loses the ridge, and a basis may hold duplicates
    basis, wide = basis.double(), hidden.double()
    ridge = _RIDGE * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    products, matches = basis @ basis.transpose(1, 2), basis @ wide.transpose(1, 2)
    weights = torch.linalg.solve(products + ridge, matches)
    away: Tensor = (wide - weights.transpose(1, 2) @ basis).norm(dim=-1)
    return away.float()
