"""A plan's stages with their strategies built, and where encoder stages act for a token count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as counting
from typing import Any
from weakref import WeakValueDictionary

from tokenprune.errors import BudgetError, PlanError
from tokenprune.interface.signals import BlockBefore, Signal, View, both_means, sums_attention
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, PruningStrategy, asked, placement
from tokenprune.plan import Average, PerTile, Plan, StagePlan, Total
from tokenprune.plan.budget import front_loaded, kept, removals
from tokenprune.plan.coupling import Coupling
from tokenprune.plan.keep import scaled
from tokenprune.plugins.strategies import strategy_class, strategy_params


@dataclass(frozen=True, eq=False)
class ResolvedStage:
    """One stage of a plan, ready to run.

    Attributes:
        number: its position in the plan, from 0.
        plan: what the plan says.
        strategy: the strategy, built with validated parameters.
        coupling: the decoder stages behind a pre-LLM stage that keeps an average over the layers.
        part: how far this one of a strategy's several steps goes from what arrives to the budget in
            tokens, as an exponent: 1 for all the way.
        ceiling: True if `keep` is an upper bound, because an earlier stage leaves a number of
            tokens that depends on the data.
    """

    number: int
    plan: StagePlan
    strategy: PruningStrategy[Any]
    coupling: Coupling | None = None
    part: float = 1.0
    ceiling: bool = False

    @property
    def where(self) -> str:
        """How errors name this stage."""
        return f"stages.{self.number} ({self.plan.strategy} at {self.plan.at})"

    def check(self, site: Site, count: int, keep: int, grid: Grid) -> None:
        """Let the strategy refuse to keep so many tokens of `count` on a grid (t, h, w) at a site.

        Raises:
            TokenpruneError: what the strategy says, see `PruningStrategy.check`.
        """
        self.strategy.check(site, Budget(count, keep, self.plan.keep is not None), grid)

    def keep(
        self, count: int, frames: int = 1, tiles: int | None = None, share: int | None = None
    ) -> int:
        """Tokens that this stage keeps of `count`; at most so many if its length isn't `planned`.

        Behind a stage whose number of tokens depends on the data, a budget in tokens is a ceiling.
        Behind the encoder, so is one per tile, as padding may leave a tile few tokens, and a total.

        Args:
            count: tokens that arrive.
            frames: of how many frames they are; budgets in tokens count per frame.
            tiles: in how many tiles the encoder saw the image; None for one a frame.
            share: of a total for the prompt, what falls to this image; None for all of it.

        Raises:
            BudgetError: more than arrive, or less than one.
        """
        if self.plan.keep is None:
            return count
        if self.coupling is not None:
            return self.coupling.arrivals(count, frames, f"{self.where}.keep")
        if isinstance(self.plan.keep, Average):
            raise BudgetError(
                "an average over an LLM's layers needs an LLM.",
                where=f"{self.where}.keep",
                remedy="Give tokens per image or a ratio.",
            )
        keep = scaled(self.plan.keep, frames, frames if tiles is None else tiles, share)
        assert isinstance(keep, int | float)
        atmost = isinstance(self.plan.keep, PerTile | Total) and self.plan.at != "encoder"
        if (self.strategy.length == "own" or self.ceiling or atmost) and isinstance(keep, int):
            keep = min(keep, count)
        return kept(keep, count, f"{self.where}.keep")


def built(plan: Plan) -> list[ResolvedStage]:
    """The stages of a plan with their strategies built, in the plan's order.

    Raises:
        UnknownNameError: there is no such strategy or parameter.
        PlanError: a strategy's parameters don't validate.
    """
    return [
        ResolvedStage(number, stage, build_strategy(stage))
        for number, stage in enumerate(plan.stages)
    ]


def wanted(stages: Iterable[ResolvedStage], site: Site, *views: type[View]) -> list[Signal]:
    """The signals that stages ask for at a site and that are computed from one of the views.

    Args:
        stages: the stages.
        site: where they act.
        views: what the signals are computed from.

    Returns:
        Each once, by name.
    """
    found = {signal for stage in stages for signal in stage.strategy.signals(site)}
    return sorted((signal for signal in found if signal.reads(*views)), key=str)


def behind_dynamic(stages: Sequence[ResolvedStage]) -> list[ResolvedStage]:
    """The stages, of which pre-LLM ones behind a data-dependent one have a ceiling for a budget."""
    bounded, dynamic = [], False
    for stage in stages:
        early = stage.plan.at == "pre_llm"
        bounded.append(replace(stage, ceiling=True) if early and dynamic else stage)
        dynamic = dynamic or (early and stage.strategy.length != "planned")
    return bounded


@dataclass(frozen=True, eq=False)
class EncoderSite:
    """One encoder block at which one stage removes tokens.

    Attributes:
        stage: the stage.
        site: the block.
        remove: how many tokens.
        signals: what the stage's strategy asks for there.
        sums: whether that is made of what tokens receive of the attention in the block.
        gives: whether what tokens give is asked for besides.
        before: whether it is made of what entered the block before.
        where: at which place of the block the strategy acts.
    """

    stage: ResolvedStage
    site: Site
    remove: int
    signals: tuple[Signal, ...]
    sums: bool
    gives: bool
    before: bool
    where: str

    @classmethod
    def of(cls, stage: ResolvedStage, site: Site, remove: int) -> EncoderSite:
        """The site of a stage, whose strategy is asked once which signals it wants there."""
        wanted = asked(stage.strategy, site)
        before = any(signal.reads(BlockBefore) for signal in wanted)
        where = placement(stage.strategy, "encoder").where
        sums, gives = sums_attention(wanted), both_means(wanted)
        return cls(stage, site, remove, wanted, sums, gives, before, where)


@dataclass
class EncoderSchedule:
    """Where the encoder stages of a plan act, by the number of patches of an image.

    Attributes:
        stages: the plan's encoder stages, in order.
        used: encoder blocks that feed what is read.
        grid: the encoder's default patch grid (t, h, w).
        notes: what a user should know about the schedules solved so far, in plain words.
        number: its key in `SCHEDULES`.
    """

    stages: Sequence[ResolvedStage]
    used: int
    grid: Grid
    notes: set[str] = field(default_factory=set)
    number: int = field(default_factory=counting().__next__)
    _cache: dict[int, dict[int, EncoderSite]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        SCHEDULES[self.number] = self

    def sites(self, count: int) -> dict[int, EncoderSite]:
        """Sites by block for images of `count` patches.

        Raises:
            BudgetError: a stage's budget can't be reached.
            LayerError: a stage names a block that isn't used.
        """
        if count not in self._cache:
            self._cache[count] = self._solve(count)
        return self._cache[count]

    def solved(self, count: int) -> bool:
        """Whether the sites of images of `count` patches are known."""
        return count in self._cache

    def sites_of(self, stage: ResolvedStage) -> list[Site]:
        """Where a stage acts on images of the default grid; if nowhere, a block it might act at."""
        sites = self.sites(math.prod(self.grid)).values()
        own = [site.site for site in sites if site.stage is stage]
        return own or [Site("encoder", self.used - 1, self.used)]

    def kept(self, count: int) -> int:
        """Tokens inside the encoder after all its stages."""
        return count - sum(site.remove for site in self.sites(count).values())

    def _solve(self, count: int) -> dict[int, EncoderSite]:
        sites: dict[int, EncoderSite] = {}
        last_block, present = -1, count
        for stage in self.stages:
            blocks = self._spread(stage, present)
            acting = [block for block, remove in enumerate(blocks) if remove]
            if acting and acting[0] <= last_block:
                raise PlanError(
                    f"acts at block {acting[0]}, but the stage before it acts up to block "
                    f"{last_block}.",
                    where=stage.where,
                    remedy="Give the stages block ranges that don't overlap (layers: [a, b]).",
                )
            for block in acting:
                site = Site("encoder", block, self.used)
                budget = Budget(present, present - blocks[block])
                stage.strategy.check(site, budget, self.grid)
                present = budget.keep
                sites[block] = EncoderSite.of(stage, site, blocks[block])
            last_block = acting[-1] if acting else last_block
        return sites

    def _spread(self, stage: ResolvedStage, count: int) -> Sequence[int]:
        plan, own = stage.plan, placement(stage.strategy, "encoder")
        first, last = plan.layers if plan.layers is not None else (0, None)
        schedule = plan.schedule if plan.schedule is not None else own.default_schedule
        layer = plan.layer if plan.layer is not None else own.layer
        if layer is not None:
            first, last, schedule = layer, layer, "mean"
        elif schedule is None:
            raise PlanError(
                f"'{stage.strategy.name}' acts at one block.",
                where=stage.where,
                remedy="Name it, for example layer: 3.",
            )
        blocks = removals(
            count,
            stage.keep(count),
            self.used,
            schedule,
            first=first,
            last=last,
            halves=own.halves,
            where=stage.where,
        )
        note = front_loaded(blocks, count)
        if note:
            self.notes.add(f"{stage.where}: {note}")
        return blocks


SCHEDULES: WeakValueDictionary[int, EncoderSchedule] = WeakValueDictionary()
"""Every schedule by its number: a compiler holds numbers as constants, and no objects."""


def build_strategy(stage: StagePlan) -> PruningStrategy[Any]:
    """The strategy of a stage, with its params.

    Raises:
        PlanError: an unknown strategy, or params that it doesn't take.
    """
    strategy = strategy_class(stage.strategy)
    params = strategy_params(strategy, stage.params, where=f"strategy '{stage.strategy}'")
    return strategy(params)
