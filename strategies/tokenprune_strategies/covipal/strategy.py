"""The strategy `covipal_style`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, ScoreStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import (
    Batch,
    ModelShape,
    StepLoss,
    TrainingSession,
    TrainingStep,
)
from tokenprune_strategies.covipal import training
from tokenprune_strategies.covipal.choice import best_of_each
from tokenprune_strategies.covipal.module import ContextScorer, MeanScorer, PruningModule
from tokenprune_strategies.covipal.params import OURS, CoViPALParams
from tokenprune_strategies.shared.learned import LearnedStrategy, refuse_width


class CoViPALStyle(LearnedStrategy[CoViPALParams, PruningModule], ScoreStrategy[CoViPALParams]):
    """Keeps the visual tokens that a small learned module finds important, given the prompt.

    The module sees the LLM's input, projected visual tokens and text embeddings, scores every
    visual token, and the best stay. The LLM is left as it is. Source: CoViPAL (arXiv 2508.17243).

    Called "style" because only the abstract and summaries could be read. From them: where it acts,
    what it reads, one score a token, top-k. Inferred, and ours: the module's whole structure (one
    input projection for both kinds of token, type embeddings, two bidirectional pre-norm layers
    without positions, GELU, no dropout; the `mlp` form), raster order of the survivors, their
    original position ids, the plan's rounding, one choice among all visual tokens of a sample
    (`per_image` for one in each image or frame), the whole prompt as text, and scoring by the image
    alone where there is no text. The paper also speaks of "layer-wise" pruning, whose scheme is
    unknown; a plan may put the stage at other layers.
    """

    name = "covipal_style"
    Params = CoViPALParams
    stages = (Decoder(layer=0),)
    about = About(
        summary="Learned: a small module scores visual tokens given the prompt; needs a "
        "checkpoint.",
        paper="CoViPAL: Layer-wise Contextualized Visual Token Pruning, arXiv 2508.17243 (in its "
        "style)",
        licence="Written from method notes; the official code could not be obtained.",
        ours=OURS,
    )
    phases = (training.GUIDANCE, training.ANSWERS)

    @classmethod
    def build(cls, shape: CoViPALParams) -> PruningModule:
        """The scoring module."""
        assert shape.dim is not None
        if shape.variant == "mlp":
            return MeanScorer(shape.dim, shape.width)
        return ContextScorer(shape.dim, shape.width, shape.depth, shape.heads)

    @classmethod
    def untrained(cls, shape: ModelShape, keep: int | None) -> Mapping[str, Any]:
        """As wide as the LLM, at most 512; the same module serves every number of tokens."""
        heads = 8
        width = max(heads, min(512, shape.llm_width) // heads * heads)
        return {"init_seed": 0, "dim": shape.llm_width, "width": width, "heads": heads}

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The prompt's text tokens at the site."""
        return (Signal.TEXT_STATES, Signal.TEXT_PLACE)

    def score(self, tokens: Tokens) -> Tensor:
        """What the module says, `[B, N]` float32."""
        refuse_width(self.name, "LLM states", tokens.hidden.shape[-1], self.module.dim)
        seen = tokens.signal(Signal.TEXT_PLACE) >= 0
        text = tokens.signal(Signal.TEXT_STATES).float()
        made: Tensor = self.module(tokens.hidden.float(), text, seen)
        return made

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep the best of the sample, or of each of its images or frames."""
        if not self.params.per_image or tokens.grid[0] == 1:
            return super().reduce(tokens, budget)
        score = self.score(tokens)
        image = tokens.position[..., 0]
        kept = best_of_each(score, image, tokens.grid[0], budget.keep)
        return Reduction.keep(kept, tokens.count, score=score)

    def loss(self, session: TrainingSession, batch: Batch, step: TrainingStep) -> StepLoss:
        """First the attention of a deep layer, then the answers."""
        wanted = (Signal.TEXT_STATES, Signal.TEXT_PLACE)
        return training.loss(session, batch, step, wanted, self.score, self.params.queries)
