"""VidCom2: frames that stand out get more tokens, and of each those that stand out."""

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
from tokenprune.ops import merge_compact, take
from tokenprune_strategies.shared.frames import frame_sizes
from tokenprune_strategies.shared.ranking import place_in_group

_WIDTHS = tuple(2.0**power for power in range(-3, 2))
"""Widths of the Gaussian kernels, the code's."""


class VidCom2Params(StrategyParams):
    """Parameters of `vidcom2`."""

    temperature: float = Field(
        default=0.01, gt=0, description="Of the softmax over frames: small favours few frames."
    )


class VidCom2(PruningStrategy[VidCom2Params]):
    """Before the LLM, on projected tokens: a budget for every frame, then its unlike tokens.

    Source: VidCom2 (arXiv 2505.14454, section 3), and notes on its code.
    """

    name = "vidcom2"
    Params = VidCom2Params
    stages = (PreLlm(projected=True),)
    about = About(
        summary="Gives more tokens to frames that stand out, keeps what is least like the rest.",
        paper="Video Compression Commander (VidCom2), arXiv 2505.14454",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        frame, size = tokens.position[..., 0], frame_sizes(tokens)
        states = normalize(calm(tokens.hidden.float()), dim=-1)
        ones = torch.ones_like(states[..., 0])
        centre = merge_compact(states, frame, ones, tokens.grid[0])
        whole = likeness(states, states.mean(dim=1, keepdim=True))
        usual = whole + likeness(states, take(centre, frame))
        unlike = -merge_compact(whole[..., None], frame, ones, tokens.grid[0])[..., 0]
        ratio = budget.keep / tokens.count
        target = ratio * scaled(unlike, size > 0, self.params.temperature)
        target = target.clamp(max=1) * size
        # How far the target reaches beyond a token: above zero for those that the code keeps. The
        # largest ones fill the budget exactly, or take off what rounding has too much.
        place = place_in_group(-usual, frame)
        reach = target.gather(1, frame) - place - 0.5
        index = foremost(reach, place == 0, budget.keep)
        return Reduction.keep(index, tokens.count, score=-usual)


def foremost(reach: Tensor, first: Tensor, keep: int) -> Tensor:
    """The best tokens by `reach` `[B, N]`, those that are `first` before all others.

    Returns:
        `[B, keep]`, ascending; ties go to the lower index.
    """
    best = reach.argsort(dim=1, descending=True, stable=True)
    ahead = first.gather(1, best).byte().argsort(dim=1, descending=True, stable=True)
    return best.gather(1, ahead[:, :keep]).sort(dim=1).values


def calm(states: Tensor) -> Tensor:
    """The half of the channels that varies least over a video: `[B, N, D]` -> `[B, N, D // 2]`."""
    order = states.var(dim=1, unbiased=False).argsort(dim=1, stable=True)
    half = order[:, None, : max(1, states.shape[2] // 2)]
    return states.gather(2, half.expand(-1, states.shape[1], -1))


def likeness(states: Tensor, centre: Tensor) -> Tensor:
    """Sum of Gaussian kernels of the distance from a centre, `[B, N]`."""
    square = (states - centre).square().sum(dim=-1)
    return torch.stack([(-square / (2 * width)).exp() for width in _WIDTHS]).sum(dim=0)


def scaled(unlike: Tensor, there: Tensor, temperature: float) -> Tensor:
    """How many times the mean budget every frame gets, `[B, T]`: 1 + q - mean of q.

    Args:
        unlike: `[B, T]`, larger for frames that stand out.
        there: `[B, T]` False for frames without tokens.
        temperature: of the softmax q.
    """
    share = (unlike.masked_fill(~there, -torch.inf) / temperature).softmax(dim=1)
    return 1 + share - 1 / there.sum(dim=1, keepdim=True)
