"""The strategy `dyvte`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import BudgetError, LayerError
from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder
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
from tokenprune_strategies.dyvte import training
from tokenprune_strategies.dyvte.gates import ExitGates, text_state
from tokenprune_strategies.dyvte.params import OURS, DyVTEParams
from tokenprune_strategies.shared.learned import LearnedStrategy, refuse_width

SMALL_GATE = 256


class DyVTE(LearnedStrategy[DyVTEParams, ExitGates]):
    """All visual tokens of a sample leave the LLM behind the first layer whose gate says so.

    The gate behind layer l reads the mean of the text behind the image and the last prompt token,
    both from the output of l, and is asked in front of layer l + 1. Every sample of a batch has an
    exit of its own. Source: DyVTE (arXiv 2411.19628) and the structure of its released code.

    Ours: `threshold`, `min_layer`, `max_layer`, `slack`, and `exit_layer`, a fixed exit without
    gates; no exit by a gate where no text follows the image (the released code's mean is NaN there,
    to the same effect); no patience over several layers; no gate for the last layer, because
    nothing comes behind it.
    """

    name = "dyvte"
    Params = DyVTEParams
    stages = (Decoder(layer=1, every_layer=True),)
    length = "own"
    about = About(
        summary="Learned: gates in the LLM say when all visual tokens leave; needs a checkpoint.",
        paper="DyVTE: Dynamic Visual-Token Exit, arXiv 2411.19628",
        licence="Written from method notes; the official code, which has no licence file, was not "
        "used.",
        ours=OURS,
        borrowed={"width": "the code's"},
    )

    @classmethod
    def build(cls, shape: DyVTEParams) -> ExitGates:
        """One gate for every layer but the last."""
        assert shape.dim is not None
        assert shape.layers is not None
        return ExitGates(shape.dim, shape.layers - 1, shape.width)

    @classmethod
    def load(cls, params: DyVTEParams) -> tuple[DyVTEParams, ExitGates]:
        """A fixed exit needs no gate."""
        if params.exit_layer is not None:
            return params, ExitGates(1, 0, 1)
        return super().load(params)

    @classmethod
    def untrained(cls, shape: ModelShape, keep: int | None) -> Mapping[str, Any]:
        """Gates of width 256, or of the LLM's if that is less."""
        width = min(SMALL_GATE, shape.llm_width)
        return {
            "init_seed": 0, "dim": shape.llm_width, "layers": shape.llm_layers, "width": width
        }  # fmt: skip

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The prompt's text tokens, unless the exit is fixed."""
        if self.params.exit_layer is not None:
            return ()
        return (Signal.TEXT_STATES, Signal.TEXT_PLACE)

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """The gates must be this LLM's, and there is no budget to keep to.

        Raises:
            LayerError: another number of layers, or an exit behind the last one or beyond.
            BudgetError: a budget is given.
        """
        if budget.keep < budget.count:
            raise BudgetError(
                "dyvte removes all visual tokens of a sample or none, and keeps to no budget.",
                where=str(site),
                remedy="Leave 'keep' out; 'min_layer' and 'max_layer' bound the exit.",
                nearest=budget.count,
            )
        if self.params.exit_layer is None and self.shape.layers != site.layers:
            raise LayerError(
                f"dyvte's gates are for an LLM of {self.shape.layers} layers, and this one has "
                f"{site.layers}.",
                where=str(site),
                remedy="Use a checkpoint that was trained for this model.",
            )
        for key in ("exit_layer", "min_layer", "max_layer"):
            layer = getattr(self.params, key)
            if layer is not None and layer > site.layers - 2:
                raise LayerError(
                    f"dyvte's '{key}' is {layer}, and behind it no layer is left to save.",
                    where=str(site),
                    remedy=f"Use 0 to {site.layers - 2}.",
                )

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Drop all tokens of the samples that exit, none of the others."""
        layer = tokens.site.layer - 1
        if layer < self.params.min_layer and self.params.exit_layer is None:
            return Reduction.none()
        leaves = self._forced(tokens, layer)
        if leaves is None:
            leaves = self._decided(tokens, layer)
        return Reduction.keep_mask(~leaves[:, None].expand_as(tokens.index))

    def _forced(self, tokens: Tokens, layer: int) -> Tensor | None:
        """`[B]` where no gate is asked."""
        limit, fixed = self.params.max_layer, self.params.exit_layer
        everyone = tokens.index.new_ones(tokens.index.shape[0]).bool()
        if fixed is not None:
            return everyone if layer >= fixed else ~everyone
        return everyone if limit is not None and layer >= limit else None

    def _decided(self, tokens: Tokens, layer: int) -> Tensor:
        """`[B]` by the gate behind `layer`."""
        refuse_width(self.name, "LLM states", tokens.hidden.shape[-1], self.module.dim)
        states = tokens.signal(Signal.TEXT_STATES)
        state = text_state(states, tokens.signal(Signal.TEXT_PLACE))
        logits: Tensor = self.module(layer, state)
        exits = logits[:, 1] - logits[:, 0] > log_odds(self.params.threshold)
        return exits & state.present

    def loss(self, session: TrainingSession, batch: Batch, step: TrainingStep) -> StepLoss:
        """One gate a step, against whether its exit would have done harm."""
        return training.loss(session, batch, step, self.module, self.params.slack)


def log_odds(probability: float) -> float:
    """Logit difference at which the softmax gives `probability`; compared without rounding it."""
    if probability in (0.0, 1.0):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))
