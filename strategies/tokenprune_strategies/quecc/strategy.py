"""The strategy `quecc`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.interface.about import About
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import (
    Batch,
    ModelShape,
    StepLoss,
    TrainingSession,
    TrainingStep,
)
from tokenprune_strategies.quecc import training
from tokenprune_strategies.quecc.compressor import (
    QueryCompressor,
    central_patches,
    window_of_patches,
)
from tokenprune_strategies.quecc.params import OURS, QueCCParams
from tokenprune_strategies.shared.learned import LearnedStrategy, refuse_width


class QueCC(LearnedStrategy[QueCCParams, QueryCompressor]):
    """One token for every window of patches, formed under the question.

    The question's state, from a text-only pass of the LLM, is added to every patch. A depthwise
    convolution makes one query of every s x s window, which attends to the window's patches at
    several depths of the encoder. The result goes through the model's own projector. Needs the
    full grid and training, one checkpoint for each stride. The question's state gets no gradient.
    Source: QueCC (arXiv 2411.03312) and the structure of its released code.

    Ours: grids that aren't square and videos (frame by frame); a new token takes the position id of
    its window's central patch; torch's initialisation; biases in all linear layers.
    """

    name = "quecc"
    Params = QueCCParams
    stages = (PreLlm(),)
    about = About(
        summary="Learned: question-aware windows become tokens; needs a checkpoint.",
        paper="QueCC: Inference Optimal VLMs Need Fewer Visual Tokens and More Parameters, "
        "arXiv 2411.03312",
        licence="Written from method notes; the official code, which has no licence file, was not "
        "used.",
        ours=OURS,
        borrowed={"stride": "the code's", "heads": "the code's"},
    )
    phases = (training.ALIGNMENT, training.ANSWERS)

    def __init__(self, params: QueCCParams) -> None:
        super().__init__(params)
        self._seen: list[training.Seen] | None = None

    @classmethod
    def build(cls, shape: QueCCParams) -> QueryCompressor:
        """The compressor."""
        assert shape.dim is not None
        assert shape.text_dim is not None
        return QueryCompressor(
            shape.dim, shape.text_dim, len(shape.levels), shape.stride, shape.heads
        )

    @classmethod
    def untrained(cls, shape: ModelShape, keep: int | None) -> Mapping[str, Any]:
        """The stride that leaves `keep` tokens of the model's grid, or the one nearest to 4.

        Raises:
            BudgetError: no stride does; carries the nearest count that one leaves.
        """
        made = strides(shape.grid)
        if not made:
            raise BudgetError(f"no stride divides a grid of {shape.grid[1]} x {shape.grid[2]}.")
        stride = min(made, key=lambda side: abs(side - 4))
        if keep is not None:
            stride = min(made, key=lambda side: abs(made[side] - keep))
            if made[stride] != keep:
                raise BudgetError(
                    f"no stride leaves {keep} tokens of a grid of {shape.grid[1]} x "
                    f"{shape.grid[2]}.",
                    where=cls.name,
                    remedy=_listed(made),
                    nearest=made[stride],
                )
        return {
            "init_seed": 0,
            "stride": stride,
            "dim": shape.encoder_width,
            "text_dim": shape.llm_width,
            "heads": math.gcd(8, shape.encoder_width),
        }

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The question's state and the outputs of the blocks that the levels name."""
        blocks = dict.fromkeys(self.shape.blocks(site.layers))
        return (Signal.QUESTION_STATE, *(Signal.HIDDEN.at(block) for block in blocks))

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """The whole grid must arrive, the stride must divide it, and every window leaves a token.

        Raises:
            BudgetError: naming what would be right.
        """
        stride, made = self.shape.stride, strides(grid)
        if budget.count != math.prod(grid):
            raise BudgetError(
                f"quecc needs the whole grid of {math.prod(grid)} tokens, and {budget.count} "
                "arrive.",
                where=str(site),
                remedy="Remove the stages before it, or use a method that takes any tokens.",
            )
        if stride not in made:
            raise BudgetError(
                f"quecc's stride {stride} doesn't divide the grid of {grid[1]} x {grid[2]}.",
                where=str(site),
                remedy=_listed(made),
                nearest=min(made.values(), key=lambda kept: abs(kept - budget.keep), default=None),
            )
        if budget.keep != made[stride]:
            raise BudgetError(
                f"quecc leaves {made[stride]} tokens with stride {stride}, not {budget.keep}.",
                where=str(site),
                remedy=f"Use keep: {made[stride]}, or weights of another stride. {_listed(made)}",
                nearest=made[stride],
            )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Replace every window by its new token, in raster order."""
        self.check(tokens.site, budget, tokens.grid)
        question = tokens.signal(Signal.QUESTION_STATE).detach()
        refuse_width(self.name, "visual tokens", tokens.hidden.shape[-1], self.module.dim)
        refuse_width(self.name, "question states", question.shape[-1], self.module.text_dim)
        created = self.module(
            tokens.hidden.float(), self._multi(tokens), question.float(), tokens.grid
        )
        batch, device = tokens.hidden.shape[0], tokens.hidden.device
        slot = window_of_patches(tokens.grid, self.shape.stride, device)
        anchor = central_patches(tokens.grid, self.shape.stride, device)
        if self._seen is not None:
            far = training.distance(created, tokens.hidden, slot)
            self._seen.append(training.Seen(far, batch * created.shape[1]))
        return Reduction.replace(created, slot.expand(batch, -1), anchor=anchor.expand(batch, -1))

    def loss(self, session: TrainingSession, batch: Batch, step: TrainingStep) -> StepLoss:
        """The distance to the windows' means, in the second phase beside the answers' loss."""
        # one entry for every shape in the batch; gone afterwards, also when the model raises
        seen: list[training.Seen] = []
        self._seen = seen
        try:
            if step.phase == training.ALIGNMENT.name:
                session.encode(batch)
                return training.alignment(seen)
            return training.loss(super().loss(session, batch, step), seen)
        finally:
            self._seen = None

    def _multi(self, tokens: Tokens) -> Tensor:
        blocks = self.shape.blocks(tokens.site.layers)
        levels = [tokens.signal(Signal.HIDDEN.at(block)).float() for block in blocks]
        return torch.cat(levels, dim=-1)


def strides(grid: Grid) -> dict[int, int]:
    """Every stride from 2 to the full grid that divides it, with the tokens that it leaves."""
    frames, height, width = grid
    return {
        side: frames * (height // side) * (width // side)
        for side in range(2, min(height, width) + 1)
        if height % side == 0 and width % side == 0
    }


def _listed(made: Mapping[int, int]) -> str:
    if not made:
        return "No stride divides it."
    listed = ", ".join(f"{side} ({kept} tokens)" for side, kept in made.items())
    return f"Strides that fit: {listed}."
