"""The strategy `aim`."""

from __future__ import annotations

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, PreLlm, Step
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices
from tokenprune_strategies.aim.importance import PAGE_RANK
from tokenprune_strategies.aim.merging import merged


class AIMParams(StrategyParams):
    """`aim` has no parameters: budgets and layers stand in the plan."""


LINES = {28: (14, 22), 32: (13, 21)}
"""By the depth of an LLM the last layer that sees all tokens and the first that sees none: the
code's for Qwen2 and for LLaVA-1.5."""


def line(layers: int) -> tuple[Step, ...]:
    """A straight line from all tokens in one layer to none in another, which is no step.

    LLMs of other depths than the code's have the shares of 28 layers (ours), and those of less than
    eleven layers one step that halves.
    """
    least = max(0, min(layers // 2, layers - 3))
    first, last = LINES.get(layers, (least, max(least + 2, layers * 22 // 28)))
    return tuple(
        Step(layer, (last - layer) / (last - layer + 1)) for layer in range(first + 1, last)
    )


class AIM(PruningStrategy[AIMParams]):
    """Two stages, usable separately: merge what is alike before the LLM, prune inside it.

    Source: AIM (arXiv 2412.03248), from notes on its abstract and on what its code does. Ours: a
    merged token stays at the place of the one that others went into, and the sequence keeps the
    grid's order.
    """

    name = "aim"
    Params = AIMParams
    stages = (PreLlm(projected=True, positions="compact"), Decoder(steps=line))
    about = About(
        summary="Merges what is alike before the LLM, prunes inside it by PageRank, on a line.",
        paper="AIM: Adaptive Inference of Multi-Modal LLMs, arXiv 2412.03248",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Inside the LLM, where random walks over the attention of the layer before end."""
        return (PAGE_RANK,) if site.stage == "decoder" else ()

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Exactly `budget.keep` tokens: merged ones before the LLM, the most important in it."""
        if not budget.remove:
            return Reduction.none()
        if tokens.site.stage == "pre_llm":
            return merged(tokens, budget.keep)
        score = tokens.signal(PAGE_RANK)
        return Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)
