"""One stage of a plan whose strategy acts in front of several layers of the LLM: its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import LayerError
from tokenprune.interface.placement import Step
from tokenprune.interface.strategy import placement
from tokenprune.plan import Average


def in_steps(stages: Sequence[ResolvedStage], layers: int) -> list[ResolvedStage]:
    """The stages, with one stage for each step in place of a stage of several steps.

    Each keeps the number of its stage in the plan, which errors and records name.

    Without a budget, every step keeps the strategy's own share of what arrives there, or what a
    strategy with a length of its own wants. An average is shared by the steps. A ratio, or a number
    of tokens, is what the last step leaves of what arrives at the first. Each step goes a part of
    the way there, on a logarithmic scale, in the proportions of the strategy's own shares (ours).

    Args:
        stages: of the plan, in order.
        layers: layers of the LLM.

    Raises:
        LayerError: the strategy has no step in an LLM of so few layers.
    """
    return [part for stage in stages for part in _steps(stage, layers)]


def on_the_way(count: int, keep: int, part: float) -> int:
    """Tokens after a step that goes a part of the way from `count` to `keep`.

    `keep` if the part is 1, else `count * (keep / count) ** part`, rounded down.
    """
    return keep if part == 1 else max(keep, int(count * (keep / count) ** part + 1e-9))


def _steps(stage: ResolvedStage, layers: int) -> list[ResolvedStage]:
    if stage.plan.at != "decoder" or stage.plan.layer is not None:
        return [stage]
    own = placement(stage.strategy, "decoder")
    if own.steps is None:
        return [stage]
    steps = own.steps(layers)
    if not steps:
        raise LayerError(
            f"'{stage.strategy.name}' finds none of its layers in an LLM of {layers}.",
            where=f"{stage.where}.layer",
            remedy="Name one: layer: 1.",
        )
    return [_step(stage, steps, number) for number in range(len(steps))]


def _step(stage: ResolvedStage, steps: Sequence[Step], number: int) -> ResolvedStage:
    keep, way = stage.plan.keep, [-log(step.keep) for step in steps]
    part = 1.0
    if keep is None and stage.strategy.length == "own":
        pass  # it sets its own budget
    elif keep is None or steps[number].keep == 1:  # a step that only looks goes on doing so
        keep = steps[number].keep
    elif isinstance(keep, float):
        keep = keep ** (way[number] / sum(way))
    elif not isinstance(keep, Average) and number < len(steps) - 1:
        part = way[number] / sum(way[number:])
    plan = stage.plan.model_copy(update={"layer": steps[number].layer, "keep": keep})
    return replace(stage, plan=plan, part=part)
