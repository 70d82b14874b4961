"""The stage of a plan that is to be trained, and what it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.errors import PlanError
from tokenprune.errors.files import is_file
from tokenprune.interface.trainable import ModelShape, TrainableStrategy, untrained_params
from tokenprune.plan import Plan, StagePlan
from tokenprune.plan.budget import kept
from tokenprune.plugins.host import host
from tokenprune.plugins.strategies import strategy_class, strategy_params

CHECKPOINT = "checkpoint"


def trainable(name: str) -> type[TrainableStrategy[Any]]:
    """The learned strategy of a name.

    Raises:
        UnknownNameError: there is no strategy of that name.
        PlanError: it has nothing to train.
    """
    found = strategy_class(name)
    if not issubclass(found, TrainableStrategy):
        known = [
            other
            for other, kind in sorted(host().strategies.items())
            if issubclass(kind, TrainableStrategy)
        ]
        raise PlanError(
            f"'{name}' has nothing to train.",
            where="tokenprune train",
            remedy=f"Trainable: {', '.join(known)}.",
        )
    return found


def trained_stage(plan: Plan, name: str) -> int:
    """The number of the one stage with a strategy.

    Raises:
        PlanError: there is none, or more than one.
    """
    numbers = [number for number, stage in enumerate(plan.stages) if stage.strategy == name]
    if len(numbers) != 1:
        raise PlanError(
            f"{len(numbers)} stages of the plan are '{name}', and one is trained at a time.",
            where="stages",
            remedy="Leave exactly one.",
        )
    return numbers[0]


def initial(plan: Plan, number: int, shape: ModelShape, seed: int) -> Plan:
    """The plan with a start for its stage: the checkpoint that it names, or random weights.

    Args:
        plan: the plan.
        number: the stage that is trained.
        shape: the model.
        seed: of random weights.

    Raises:
        PlanError: how many tokens the stage keeps can't be told.
    """
    stage = plan.stages[number]
    if stage.params.get(CHECKPOINT) is not None:
        return plan
    given = fresh(stage, shape, _count(plan, number, shape))
    if "init_seed" in given:
        given["init_seed"] = seed
    return with_params(plan, number, {**given, **_set(stage)})


def fresh(stage: StagePlan, shape: ModelShape, keep: int | None) -> dict[str, Any]:
    """Parameters of an untrained instance."""
    return untrained_params(strategy_class(stage.strategy), shape, keep)


def finished(plan: Plan, number: int, shape: ModelShape, file: Path) -> Plan:
    """The plan with a trained checkpoint in place of the start."""
    stage = plan.stages[number]
    start = fresh(stage, shape, _count(plan, number, shape))
    own = {name: value for name, value in _set(stage).items() if name not in start}
    return with_params(plan, number, {**own, CHECKPOINT: str(file)})


def with_params(plan: Plan, number: int, params: Mapping[str, Any]) -> Plan:
    """The plan with other parameters of one stage."""
    stages = list(plan.stages)
    stages[number] = stages[number].model_copy(update={"params": dict(params)})
    return plan.model_copy(update={"stages": tuple(stages)})


def with_absolute_files(plan: Plan) -> Plan:
    """The plan with whole paths of all files that its parameters name, to be written anywhere."""
    for number, stage in enumerate(plan.stages):
        given = strategy_params(strategy_class(stage.strategy), stage.params)
        files = {
            name: str(value.resolve())
            for name, value in given
            if name in stage.params and isinstance(value, Path) and is_file(value)
        }
        plan = with_params(plan, number, {**stage.params, **files})
    return plan


def _set(stage: StagePlan) -> dict[str, Any]:
    return {name: value for name, value in stage.params.items() if value is not None}


def _count(plan: Plan, number: int, shape: ModelShape) -> int | None:
    """Tokens that leave the stage, per image; None if the plan doesn't say."""
    keep = plan.stages[number].keep
    if keep is None or isinstance(keep, int):
        return keep
    if not isinstance(keep, float) or number > 0:
        raise PlanError(
            "how many tokens are left can't be told from this budget.",
            where=f"stages.{number}.keep",
            remedy="Give a number of tokens to train for.",
        )
    frames, height, width = shape.grid
    return kept(keep, frames * height * width, f"stages.{number}.keep")
