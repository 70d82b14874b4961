"""AdaptPrune: attended tokens one after another, each taking weight from those near and like it."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import LayerAhead, Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.cosine import cosines


def keys(view: LayerAhead) -> Tensor:
    """Keys of all heads side by side without rotary embeddings, `[B, T, C]`."""
    return view.unrotated.key.transpose(1, 2).flatten(2)


KEYS = Signal(
    "adaptprune_keys",
    "[B, N, C] keys of the LLM layer at the site itself, all heads side by side, without rotary "
    "embeddings",
    needs=LayerAhead,
    compute=keys,
)


class AdaptPruneParams(StrategyParams):
    """Parameters of `adaptprune`."""

    centre: float = Field(
        default=0.5,
        gt=0,
        description="Width (sigma) of the bell over the picture that attention is multiplied by, "
        "as a share of the grid's sides.",
    )
    reach: float = Field(
        default=5.0, ge=0, description="Tokens farther than this from a pick keep their weight."
    )
    spread: float = Field(
        default=1.5, gt=0, description="Width (sigma) of the bell over distances, in tokens."
    )
    likeness: float = Field(
        default=0.05, gt=0, description="Width (sigma) of the bell over 1 - cosine of the keys."
    )


class AdaptPrune(PruningStrategy[AdaptPruneParams]):
    """Inside the LLM: soft non-maximum suppression of attention, by place and by likeness.

    Source: "Multi-Cue Adaptive Visual Token Pruning" (arXiv 2503.08019), from notes on its code.
    """

    name = "adaptprune"
    Params = AdaptPruneParams
    stages = (Decoder(layer=2, maps=True),)
    about = About(
        summary="Keeps attended tokens, one after another; each weakens those near and like it.",
        paper="Multi-Cue Adaptive Visual Token Pruning (AdaptPrune), arXiv 2503.08019",
        licence="Written from method notes; the reference code carries no licence and was not "
        "used.",
        ours={},
        borrowed=dict.fromkeys(AdaptPruneParams.model_fields, "the code's"),
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The last prompt token's attention in the layer before, and the keys of the layer."""
        return (Signal.LAST_QUERY_ATTENTION, KEYS)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        if not budget.remove:
            return Reduction.none()
        score = tokens.signal(Signal.LAST_QUERY_ATTENTION).float()
        weight = score * middle(tokens, self.params.centre)
        near = nearness(tokens.position, self.params.reach, self.params.spread)
        alike = bell(1 - cosines(tokens.signal(KEYS)), self.params.likeness)
        index = suppressed(weight, 1 - near * alike, budget.keep).sort(dim=1).values
        return Reduction.keep(index, tokens.count, score=score)


def bell(distance: Tensor, sigma: float) -> Tensor:
    """exp(-distance^2 / (2 sigma^2)), of any shape."""
    return (-distance.square() / (2 * sigma**2)).exp()


def middle(tokens: Tokens, share: float) -> Tensor:
    """A bell over every frame of the grid, `[B, N]`, against a bias to the picture's borders.

    A side of n tokens counts from -n / 2 to n / 2 in n even steps, as in the code.
    """
    weight = torch.ones_like(tokens.hidden[..., 0], dtype=torch.float32)
    for side, place in zip(tokens.grid[1:], tokens.position.unbind(dim=-1)[1:], strict=True):
        along = torch.linspace(-side / 2, side / 2, side, device=place.device)
        weight = weight * bell(along, share * side)[place]
    return weight


def nearness(position: Tensor, reach: float, spread: float) -> Tensor:
    """A bell over the distances of tokens, `[B, N, N]`; 0 beyond reach and in other frames.

    Args:
        position: (t, h, w) of every token, `[B, N, 3]`.
        reach: farthest distance that counts.
        spread: sigma.
    """
    frame, row, column = (one[:, :, None] - one[:, None] for one in position.float().unbind(dim=-1))
    distance = (row.square() + column.square()).sqrt()
    return bell(distance, spread).where((distance <= reach) & (frame == 0), 0.0)


def suppressed(weight: Tensor, left: Tensor, keep: int) -> Tensor:
    """Token by token the one of the largest weight, `[B, keep]`; ties go to the lower index.

    Args:
        weight: `[B, N]`, not negative.
        left: `[B, N, N]` share of its weight that a pick (row) leaves a token (column).
        keep: how many.
    """
    row, picks = torch.arange(len(weight), device=weight.device), []
    for _ in range(keep):
        pick = weight.argmax(dim=1)
        picks.append(pick)
        # What is picked comes last, whatever later picks leave of its weight.
        weight = (weight * left[row, pick]).where(weight >= 0, -1.0).scatter(1, pick[:, None], -1.0)
    return torch.stack(picks, dim=1)
