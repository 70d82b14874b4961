"""The text tower that the stages of a plan name; known without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import PlanError
from tokenprune.interface.signals import Signal, TowerSpace
from tokenprune.interface.sites import Site
from tokenprune.interface.text_tower import TowerChoice


class NamedTextTower(NamedTuple):
    """The text tower of a plan, and what its stages read of it.

    Attributes:
        signals: what the stages ask for.
        choice: which one it is.
        where: the first stage that names it.
    """

    signals: list[Signal]
    choice: TowerChoice
    where: str


def named_text_tower(stages: Sequence[ResolvedStage], site: Site) -> NamedTextTower | None:
    """The text tower that the pre-LLM stages of a plan name; None if none needs one.

    Args:
        stages: the plan's pre-LLM stages.
        site: where they act.

    Raises:
        PlanError: a stage names none, or two name different ones.
    """
    signals: dict[str, Signal] = {}
    chosen: dict[TowerChoice, ResolvedStage] = {}
    for stage in stages:
        mine = [signal for signal in stage.strategy.signals(site) if signal.reads(TowerSpace)]
        if not mine:
            continue
        choice = stage.strategy.text_tower()
        if choice is None:
            raise PlanError(
                f"'{stage.strategy.name}' needs {mine[0]} and names no text tower.",
                where=stage.where,
                remedy="Let its text_tower() name one.",
            )
        signals |= {signal.name: signal for signal in mine}
        chosen.setdefault(choice, stage)
    if not chosen:
        return None
    choice, stage = next(iter(chosen.items()))
    if len(chosen) > 1:
        other = list(chosen.values())[1]
        raise PlanError(
            f"'{other.strategy.name}' reads another text tower or tokenizer than "
            f"'{stage.strategy.name}' ({stage.where}).",
            where=other.where,
            remedy="Name the same in both stages.",
        )
    return NamedTextTower(list(signals.values()), choice, stage.where)
