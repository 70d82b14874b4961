"""The baselines that every method has to beat: a random choice and an even one."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import STAGES
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.shared.draws import draw


class RandomParams(StrategyParams):
    """Parameters of `random`."""

    seed: int = Field(default=0, ge=0, description="Mixed with the plan's seed.")


class Random(PruningStrategy[RandomParams]):
    """Keep a random set, the same one for every image with as many tokens at the same site."""

    name = "random"
    Params = RandomParams
    stages = (Encoder(), PreLlm(), Decoder(text=True))
    about = About(
        summary="Baseline: keeps a random set of tokens.",
        paper="none (baseline)",
        licence="This project's own.",
        ours={"seed": "a baseline of this project"},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep `budget.keep` tokens drawn without replacement, in raster order."""
        site = tokens.site
        key = (tokens.seed, self.params.seed, STAGES.index(site.stage), site.layer)
        return _same_for_all(tokens, draw(budget.count, budget.keep, key, tokens.hidden.device))


class UniformParams(StrategyParams):
    """`uniform` has no parameters."""


class Uniform(PruningStrategy[UniformParams]):
    """Keep evenly spaced tokens of those that arrive, each in the middle of its stride."""

    name = "uniform"
    Params = UniformParams
    stages = (Encoder(), PreLlm(), Decoder())
    about = About(
        summary="Baseline: keeps evenly spaced tokens.",
        paper="none (baseline)",
        licence="This project's own.",
        ours={},
    )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep the tokens at `spaced(count, keep)`."""
        return _same_for_all(tokens, spaced(budget.count, budget.keep, tokens.hidden.device))


def spaced(count: int, keep: int, device: torch.device) -> Tensor:
    """`round((i + 0.5) N / k - 0.5)` for i = 0..k-1, halves rounded up, `[keep]` int64."""
    return (2 * torch.arange(keep, device=device) + 1) * count // (2 * keep)


def _same_for_all(tokens: Tokens, index: Tensor) -> Reduction:
    return Reduction.keep(index.expand(tokens.hidden.shape[0], -1), tokens.count)
