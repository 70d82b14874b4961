"""A decoder stage: which layer it stands in front of, and how many tokens it leaves."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.engine.stages import ResolvedStage
from tokenprune.plan import Average
from tokenprune.plan.budget import decoder_keeps, kept
from tokenprune.tokens import Signal, Site


@dataclass(frozen=True)
class DecoderStage:
    """A decoder stage at its layer.

    Attributes:
        stage: the plan's stage.
        site: layer K and the number of layers.
        place: its position among the decoder stages.
        keeps: budgets of all decoder stages.
        layers: layers of all decoder stages.
        fixed: whether all stages before it keep a number known in advance.
    """

    stage: ResolvedStage
    site: Site
    place: int
    keeps: tuple[int | float | Average | None, ...]
    layers: tuple[int, ...]
    fixed: bool

    @property
    def reads_attention(self) -> bool:
        """Whether the layer before has to put aside its queries and keys."""
        return Signal.LAST_QUERY_ATTENTION in self.stage.strategy.signals(self.site)

    @property
    def prunes_text(self) -> bool:
        """Whether the plan gives it text tokens too."""
        return self.stage.plan.keep_text is not None

    def budget(self, count: int, arrived: int, images: int) -> int:
        """Tokens to keep of `count` in a sample of several images.

        Budgets in tokens are per image; after a data-dependent stage they are a ceiling.

        Raises:
            BudgetError: it can't be reached.
        """
        where = f"{self.stage.where}.keep"
        keep = _scaled(self.keeps[self.place], images)
        if keep is None:
            return count
        if not self.fixed:
            assert not isinstance(keep, Average)
            return kept(min(keep, count) if isinstance(keep, int) else keep, count, where)
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
