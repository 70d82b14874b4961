"""CDPruner: a diverse set of visual tokens, given what the prompt asks."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import dpp_select
from tokenprune_strategies.shared.cosine import cosines

_EPSILON = 1e-6
"""Added to the range of the relevance, so that equal values give 0 and not NaN."""


class CDPrunerParams(StrategyParams):
    """Parameters of `cdpruner`."""

    weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share w of the kernel that is conditional on the prompt: "
        "(1 - w) S + w r S r. 0: diversity alone; 1: the paper's kernel.",
    )
    halves: bool = Field(
        default=True,
        description="Choose half of the budget from either half of the tokens, each with a kernel "
        "of its own.",
    )


class CDPruner(PruningStrategy[CDPrunerParams]):
    """In front of the LLM's first layer: greedy MAP of a DPP whose kernel knows the prompt.

    Source: CDPruner (arXiv 2506.10967, section 3), in the form of OpenVINO GenAI, which reads the
    prompt from the LLM's own embeddings and needs no CLIP text tower.
    """

    name = "cdpruner"
    Params = CDPrunerParams
    stages = (Decoder(layer=0),)
    about = About(
        summary="Keeps a diverse set of tokens, conditional on the prompt's embeddings.",
        paper="CDPruner, arXiv 2506.10967",
        licence="Written from method notes; CDPruner's and OpenVINO GenAI's code are under "
        "Apache-2.0, none was copied.",
        ours={},
        borrowed={"weight": "OpenVINO's", "halves": "OpenVINO's"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The prompt's text, which at layer 0 are its embeddings."""
        return (Signal.TEXT_STATES, Signal.TEXT_PLACE)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens, in raster order."""
        prompt = mean_text(tokens.signal(Signal.TEXT_STATES), tokens.signal(Signal.TEXT_PLACE))
        relevance = cosine_similarity(tokens.hidden.float(), prompt[:, None], dim=-1)
        count, keep = tokens.count, budget.keep
        middle, first = (count // 2, keep // 2) if self.params.halves else (0, 0)
        parts = [
            start + self._picks(tokens.hidden[:, start:end], relevance[:, start:end], share)
            for start, end, share in ((0, middle, first), (middle, count, keep - first))
            if share
        ]
        index = torch.cat(parts, dim=1).sort(dim=1).values
        return Reduction.keep(index, count, score=relevance)

    def _picks(self, hidden: Tensor, relevance: Tensor, keep: int) -> Tensor:
        alike, weight = cosines(hidden), self.params.weight
        quality = stretched(relevance)
        given = quality[:, :, None] * alike * quality[:, None, :]
        return dpp_select((1 - weight) * alike + weight * given, keep)


def mean_text(states: Tensor, place: Tensor) -> Tensor:
    """Mean of a prompt's text tokens, `[B, S, D]` and `[B, S]` (-1: padding) -> `[B, D]`."""
    real = (place >= 0).float()[..., None]
    return (states.float() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def stretched(relevance: Tensor) -> Tensor:
    """From 0 for the least to (almost) 1 for the most relevant token of a sample, `[B, N]`."""
    least, most = relevance.amin(dim=1, keepdim=True), relevance.amax(dim=1, keepdim=True)
    return (relevance - least) / (most - least + _EPSILON)
