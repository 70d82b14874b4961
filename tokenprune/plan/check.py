"""Checking a plan against the strategies that are registered."""

from __future__ import annotations

from typing import Any

from tokenprune.errors import PlanError
from tokenprune.interface.placement import Decoder, Encoder
from tokenprune.interface.strategy import PruningStrategy, placement
from tokenprune.plan.model import Plan, StagePlan
from tokenprune.plan.numbering import numbering
from tokenprune.plugins.host import host
from tokenprune.plugins.strategies import strategy_class, strategy_params


def check_plan(plan: Plan, *, where: str = "") -> Plan:
    """Check strategies, their stages, params and block ranges.

    Args:
        plan: a plan that is valid as data.
        where: the file to name in errors.

    Returns:
        The plan with params as the strategies' own models read them; nothing is filled in.

    Raises:
        UnknownNameError: no strategy, or no parameter, of that name.
        PlanError: a strategy can't do what a stage asks, or two have different position ids.
    """
    stages = tuple(
        _checked(stage, where, f"stages.{number}") for number, stage in enumerate(plan.stages)
    )
    _no_overlap(stages, where)
    checked = plan.model_copy(update={"stages": stages})
    numbering(checked, where)
    return checked


def _checked(stage: StagePlan, where: str, at: str) -> StagePlan:
    place = f"{where}: {at}" if where else at
    strategy = strategy_class(stage.strategy, where=f"{place}.strategy")
    own = placement(strategy, stage.at, where=f"{place}.at")
    if isinstance(own, Encoder) and own.default_schedule is None:
        for key in ("schedule", "layers"):
            if getattr(stage, key) is not None:
                raise PlanError(
                    f"'{stage.strategy}' acts in one block and has no schedule.",
                    where=f"{place}.{key}",
                    remedy=f"Remove '{key}'; 'layer' chooses the block.",
                )
    if isinstance(own, Decoder) and not own.every_layer:
        _one_layer(stage, own, place)
    stepping = isinstance(own, Decoder) and own.steps is not None and stage.layer is None
    if stage.keep is None and strategy.length != "own" and not stepping:
        raise PlanError(
            f"'{stage.strategy}' needs a budget: write tokens (128) or a ratio (0.25).",
            where=f"{place}.keep",
            remedy="Add 'keep'. Only strategies that set their own budget go without.",
        )
    if stage.keep_text is not None and not (isinstance(own, Decoder) and own.text):
        able = ", ".join(name for name, kind in host().strategies.items() if _prunes_text(kind))
        raise PlanError(
            f"'{stage.strategy}' can't prune text tokens.",
            where=f"{place}.keep_text",
            remedy=f"Remove 'keep_text', or use one that can: {able or 'none is installed'}.",
        )
    params = strategy_params(strategy, stage.params, where=where, at=f"{at}.params")
    given = params.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return stage.model_copy(update={"params": given})


def _prunes_text(strategy: type[PruningStrategy[Any]]) -> bool:
    return any(isinstance(own, Decoder) and own.text for own in strategy.stages)


def _one_layer(stage: StagePlan, own: Decoder, place: str) -> None:
    if stage.layers is not None:
        raise PlanError(
            f"'{stage.strategy}' acts in front of one layer of the LLM.",
            where=f"{place}.layers",
            remedy=f"Write layer: {stage.layers[0]}.",
        )
    if stage.layer is None and own.layer is None and own.steps is None:
        raise PlanError(
            f"'{stage.strategy}' has no layer of its own.",
            where=f"{place}.layer",
            remedy="Add 'layer', counted from 0: the input of that layer is pruned.",
        )


def _range(stage: StagePlan) -> tuple[int, int] | None:
    """Blocks or layers of a stage, where they can be told without a model."""
    if stage.layers is not None:
        return stage.layers
    layer = stage.layer
    if layer is None and stage.at == "encoder":
        layer = placement(strategy_class(stage.strategy), "encoder").layer
    return None if layer is None else (layer, layer)


def _no_overlap(stages: tuple[StagePlan, ...], where: str) -> None:
    before = {"encoder": -1, "decoder": -1}
    for number, stage in enumerate(stages):
        blocks = _range(stage) if stage.at in before else None
        if blocks is None:
            continue
        if blocks[0] <= before[stage.at]:
            part = "block" if stage.at == "encoder" else "layer"
            raise PlanError(
                f"this stage begins at {part} {blocks[0]}, but one before it acts up to {part} "
                f"{before[stage.at]}.",
                where=": ".join(part for part in (where, f"stages.{number}") if part),
                remedy=f"List {stage.at} stages by {part}, with ranges that don't overlap.",
            )
        before[stage.at] = blocks[1]
