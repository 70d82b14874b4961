"""Which position ids the survivors of a plan get in the LLM, and who says so."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.errors import PlanError
from tokenprune.interface.placement import Positions
from tokenprune.interface.strategy import placement, places
from tokenprune.plan.model import Plan, StagePlan
from tokenprune.plugins.host import host


@dataclass(frozen=True)
class Said:
    """Position ids of the survivors of some stages.

    Attributes:
        positions: their own, or renumbered without gaps.
        by: name of the strategy that says so; `plan` or `default`.
    """

    positions: Positions
    by: str

    def __str__(self) -> str:
        who = {"plan": "as the plan says", "default": "the default"}
        return f"{self.positions} ({who.get(self.by, f'as {self.by} has them')})"


@dataclass(frozen=True)
class Numbering:
    """Position ids of all survivors of a plan.

    Attributes:
        entry: of those that encoder and pre-LLM stages leave; None without such stages.
        layers: of those that decoder stages leave; None without such stages.
        given: what holds without any stage.
    """

    entry: Said | None
    layers: Said | None
    given: Said

    @property
    def first(self) -> Said:
        """What holds at the first stage that removes tokens the LLM would see."""
        return self.entry or self.layers or self.given

    @property
    def stated(self) -> tuple[Said, ...]:
        """What holds at all stages, in order."""
        return tuple(said for said in (self.entry, self.layers) if said is not None)

    @property
    def compact_entry(self) -> bool:
        """Whether the LLM's input is renumbered."""
        return (self.entry or self.given).positions == "compact"

    @property
    def compact_layers(self) -> bool:
        """Whether what a decoder stage leaves is renumbered."""
        return (self.layers or self.given).positions == "compact"

    def __str__(self) -> str:
        if self.entry is None or self.layers is None or self.entry == self.layers:
            return str(self.first)
        return f"{self.entry} at the LLM's input, {self.layers} inside it"


def numbering(plan: Plan, where: str = "") -> Numbering:
    """What a plan's survivors are numbered by: the plan's word, else its strategies', else theirs.

    Args:
        plan: the plan.
        where: the file to name in errors.

    Raises:
        PlanError: two stages that are numbered together have different position ids.
    """
    if plan.positions is not None:
        given = Said(plan.positions, "plan")
        return Numbering(given, given, given)
    early = [n for n, stage in enumerate(plan.stages) if stage.at != "decoder"]
    late = [n for n, stage in enumerate(plan.stages) if stage.at == "decoder"]
    default = Said("original", "default")
    return Numbering(_of(plan, early, where), _of(plan, late, where), default)


def positions_of(plan: Plan) -> Positions:
    """The word that stands for a plan in tables: what holds at its first stage."""
    return numbering(plan).first.positions


def _own(stage: StagePlan) -> Positions | None:
    """What a stage's strategy says; of one that isn't installed or can't stand there, nothing.

    Old records hold such stages, and training and probes look through stages without a name.
    """
    kind = host().strategies.get(stage.strategy)
    if kind is None or stage.at not in places(kind):
        return None
    return placement(kind, stage.at).positions


def _of(plan: Plan, numbers: list[int], where: str) -> Said | None:
    """What the strategies of some stages say; the default if none of them says anything."""
    said: Said | None = None
    for number in numbers:
        stage = plan.stages[number]
        own = _own(stage)
        if own is None:
            continue
        if said is not None and said.positions != own:
            raise PlanError(
                f"'{stage.strategy}' has {own} position ids, and '{said.by}' before it "
                f"{said.positions} ones.",
                where=": ".join(part for part in (where, f"stages.{number}") if part),
                remedy="Write positions: original or positions: compact for both.",
            )
        said = said or Said(own, stage.strategy)
    return said or (Said("original", "default") if numbers else None)
