"""Decoder stages: in front of which layers they stand, and how many tokens they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenprune.engine.stages import ResolvedStage
from tokenprune.engine.steps import on_the_way
from tokenprune.errors import LayerError, PlanError
from tokenprune.interface.signals import LayerBefore, LayerInput, LayerValues, Signal, View
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import placement
from tokenprune.plan import Average, PerTile, Total
from tokenprune.plan.budget import decoder_keeps, kept
from tokenprune.plan.keep import Budgeted, scaled


@dataclass(frozen=True)
class DecoderStage:
    """A decoder stage at one of its layers.

    Attributes:
        stage: the plan's stage.
        site: layer K and the number of layers.
        place: its index among the sites of all decoder stages.
        keeps: budgets at all these sites.
        layers: layers of all these sites.
        fixed: whether all sites before it keep a number known in advance.
        unchecked: whether pictures of any size come, so that budgets are checked as they do.
    """

    stage: ResolvedStage
    site: Site
    place: int
    keeps: tuple[Budgeted | None, ...]
    layers: tuple[int, ...]
    fixed: bool
    unchecked: bool = False

    @property
    def signals(self) -> frozenset[Signal]:
        """What the strategy asks for here."""
        return frozenset(self.stage.strategy.signals(self.site))

    def reads(self, *views: type[View]) -> bool:
        """Whether it asks for a signal that is computed from one of the views."""
        return any(signal.reads(*views) for signal in self.signals)

    @property
    def prunes_text(self) -> bool:
        """Whether the plan gives it text tokens too."""
        return self.stage.plan.keep_text is not None

    def budget(self, count: int, arrived: int, images: int, tiles: int) -> int:
        """Tokens to keep of `count` in a sample of several images or frames.

        Budgets in tokens are per image or frame, or per tile; for strategies that set their own
        budget, and after a data-dependent stage, they are a ceiling. Those per tile and for a whole
        prompt always are.

        Args:
            count: tokens that arrive here.
            arrived: tokens of the sample at the LLM's input.
            images: images, or frames, of the sample.
            tiles: tiles of all of them.

        Raises:
            BudgetError: it can't be reached.
        """
        where, written = f"{self.stage.where}.keep", self.keeps[self.place]
        keep = scaled(written, images, tiles)
        if keep is None:
            return count
        bounded = self.stage.strategy.length == "own" or not self.fixed
        if isinstance(keep, int) and (bounded or isinstance(written, PerTile | Total)):
            keep = min(keep, count)
        if not isinstance(keep, Average):
            return on_the_way(count, kept(keep, count, where), self.stage.part)
        # stages that set their own budget can only come later
        keeps, present = list[int | float | Average](), arrived
        for one in self.keeps:
            number = scaled(one, images, tiles)
            if isinstance(number, int) and isinstance(one, PerTile | Total):
                number = min(number, present)
            if number is not None:
                keeps.append(number)
            if isinstance(number, int | float):
                present = kept(min(number, present), present, where)
        layers = [at for keep, at in zip(self.keeps, self.layers, strict=True) if keep is not None]
        return decoder_keeps(keeps, layers, arrived, self.site.layers, where)[self.place]

    def text_budget(self, count: int) -> int:
        """Text tokens to keep of `count` in one prompt; a budget in tokens is a ceiling."""
        keep = self.stage.plan.keep_text
        assert keep is not None
        keep = min(keep, count) if isinstance(keep, int) else keep
        return kept(keep, count, f"{self.stage.where}.keep_text")


def decoder_layers(stages: Sequence[ResolvedStage], count: int) -> list[range]:
    """The layers of every decoder stage, ascending over the stages.

    A stage that is asked at every layer acts from its strategy's own layer (1 if it has none), or
    from the layer behind the stage before it, up to the layer before the next stage (or the last),
    unless the plan says `layers`.

    Args:
        stages: the decoder stages, in order.
        count: layers of the LLM.

    Raises:
        LayerError: there is no such layer, the stages overlap, or a strategy reads the layer
            before layer 0.
        PlanError: no layer is named.
    """
    bounds = [_bounds(stage, count) for stage in stages]
    spans: list[range] = []
    for place, (stage, given) in enumerate(zip(stages, bounds, strict=True)):
        free = spans[-1].stop if spans else 0
        if given is None:
            later = [bound[0] for bound in bounds[place + 1 :] if bound is not None]
            own = placement(stage.strategy, "decoder").layer_of(count)
            given = (max(free, 1 if own is None else own), later[0] if later else count)
        if given[0] < free or given[0] >= given[1]:
            raise LayerError(
                f"decoder stages need ascending layers that don't overlap: this one acts from "
                f"layer {given[0]} to {given[1] - 1}, those before it up to {free - 1}.",
                where=stage.where,
                remedy=_remedy(free, count),
            )
        spans.append(range(*given))
        _refuse_nothing_before(stage, spans[-1], count)
    return spans


def _bounds(stage: ResolvedStage, count: int) -> tuple[int, int] | None:
    """First layer and the one behind the last; None if the plan leaves them open."""
    plan, own = stage.plan, placement(stage.strategy, "decoder")
    if plan.layers is not None:
        if plan.layers[1] >= count:
            raise _missing(stage, "layers", plan.layers[1], count)
        return plan.layers[0], plan.layers[1] + 1
    layer = plan.layer
    if layer is None and own.every_layer:
        return None
    layer = own.layer_of(count) if layer is None else layer
    if layer is None:
        raise PlanError(
            f"'{stage.strategy.name}' has no layer of its own in an LLM of {count}.",
            where=f"{stage.where}.layer",
            remedy="Name the layer whose input is pruned, as in layer: 2.",
        )
    if layer >= count:
        raise _missing(stage, "layer", layer, count)
    return layer, layer + 1


def _missing(stage: ResolvedStage, key: str, layer: int, count: int) -> LayerError:
    return LayerError(
        f"the LLM has no layer {layer}.",
        where=f"{stage.where}.{key}",
        remedy=f"Layers 0 to {count - 1} can be pruned in front of.",
    )


def _remedy(free: int, count: int) -> str:
    if free >= count:
        return "No layer is left behind the stages before it; end one of them earlier."
    return f"Layers {free} to {count - 1} are free here; list stages by layer."


def _refuse_nothing_before(stage: ResolvedStage, layers: range, count: int) -> None:
    asked = stage.strategy.signals(Site("decoder", 0, count)) if layers[0] == 0 else ()
    before = (LayerBefore, LayerInput, LayerValues)
    reading = sorted(str(signal) for signal in asked if signal.reads(*before))
    if reading:
        raise LayerError(
            f"in front of layer 0 no layer of the LLM has seen the tokens, and "
            f"'{stage.strategy.name}' reads the layer before ({', '.join(reading)}).",
            where=f"{stage.where}.layer",
            remedy="Use at: pre_llm, or layer: 1.",
        )
