"""A decoder stage: which layer it stands in front of, and how many tokens it leaves."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.engine.stages import ResolvedStage
from tokenprune.plan import Average
from tokenprune.plan.budget import decoder_keeps, kept
from tokenprune.tokens import Signal, Site

QUESTION = frozenset({Signal.QUESTION_ATTENTION_MAX, Signal.QUESTION_ATTENTION_MEAN})
LAYER_BEFORE = QUESTION | {Signal.LAST_QUERY_ATTENTION, Signal.PROMPT_ATTENTION_MEAN}
"""Signals of the layer before the site."""
AHEAD = frozenset({Signal.AHEAD_ATTENTION, Signal.AHEAD_ATTENTION_UNROTATED})
"""Signals of the layer at the site."""
TEXT = frozenset({Signal.TEXT_STATES, Signal.TEXT_PLACE})
"""Signals of the prompt's text at the site."""
SUPPLIED = LAYER_BEFORE | AHEAD | TEXT
"""What can be had at decoder sites; a model's LLM may have other signals for other stages."""


@dataclass(frozen=True)
class DecoderStage:
    """A decoder stage at one of its layers.

    Attributes:
        stage: the plan's stage.
        site: layer K and the number of layers.
        place: its position among the sites of all decoder stages.
        keeps: budgets at all these sites.
        layers: layers of all these sites.
        fixed: whether all sites before it keep a number known in advance.
    """

    stage: ResolvedStage
    site: Site
    place: int
    keeps: tuple[int | float | Average | None, ...]
    layers: tuple[int, ...]
    fixed: bool

    @property
    def signals(self) -> frozenset[Signal]:
        """What the strategy asks for here."""
        return frozenset(self.stage.strategy.signals(self.site))

    @property
    def prunes_text(self) -> bool:
        """Whether the plan gives it text tokens too."""
        return self.stage.plan.keep_text is not None

    def budget(self, count: int, arrived: int, images: int) -> int:
        """Tokens to keep of `count` in a sample of several images or frames.

        Budgets in tokens are per image or frame; for strategies that set their own budget, and
        after a data-dependent stage, they are a ceiling.

        Raises:
            BudgetError: it can't be reached.
        """
        where = f"{self.stage.where}.keep"
        keep = _scaled(self.keeps[self.place], images)
        if keep is None:
            return count
        if isinstance(keep, int) and (self.stage.strategy.adaptive or not self.fixed):
            keep = min(keep, count)
        if not isinstance(keep, Average):
            return kept(keep, count, where)
        # stages that set their own budget can only come later
        given = [(_scaled(k, images), at) for k, at in zip(self.keeps, self.layers, strict=True)]
        scaled = [value for value, _ in given if value is not None]
        layers = [at for value, at in given if value is not None]
        return decoder_keeps(scaled, layers, arrived, self.site.layers, where)[self.place]

    def text_budget(self, count: int) -> int:
        """Text tokens to keep of `count` in one prompt; a budget in tokens is a ceiling."""
        keep = self.stage.plan.keep_text
        assert keep is not None
        keep = min(keep, count) if isinstance(keep, int) else keep
        return kept(keep, count, f"{self.stage.where}.keep_text")


def _scaled(keep: int | float | Average | None, images: int) -> int | float | Average | None:
    if isinstance(keep, Average):
        return keep.model_copy(update={"average": keep.average * images})
    return keep * images if isinstance(keep, int) else keep
