"""The random plans that a study adds, so that every method has a fair one beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attach import attach
from tokenprune.engine.stages import ResolvedStage, built
from tokenprune.engine.steps import in_steps
from tokenprune.errors import TokenpruneError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.placement import Decoder, Encoder
from tokenprune.interface.strategy import placement
from tokenprune.lab.judge.result import BASELINE
from tokenprune.lab.measure.entries import budgets
from tokenprune.plan import Average, Plan, StagePlan, positions_of

#: Why they are there, for people.
WHY = "plans are compared with random at the same layers of the LLM and with the same position ids"

#: What a stage of the baseline shares with that of the method.
SHARED = ("at", "keep", "keep_text", "schedule", "layer", "layers")


def may_lack(plans: Iterable[Plan]) -> bool:
    """Whether plans of a study may need a random plan, for which a model has to be asked."""
    given = list(plans)
    inside = any(stage.at == "decoder" for plan in given for stage in plan.stages)
    return inside or len({positions_of(plan) for plan in given if plan.stages}) > 1


def missing_baselines(model: Any, plans: Iterable[tuple[str, Plan]]) -> list[tuple[str, Plan]]:
    """Random plans for those that need one beside them and have none.

    Those are plans that prune inside the LLM, where no other random plan does as much work, and
    plans whose random plan has other position ids, which a method may choose by itself.

    Args:
        model: that the plans run on.
        plans: of a study, by name.

    Returns:
        New plans with their names, each once.
    """
    adapter = choose_adapter(model)
    if not isinstance(adapter, MllmAdapter):
        return []
    layers, given = len(adapter.spec().layers), list(plans)
    names = {name for name, _ in given}
    known = {_key(one) for _, plan in given if (one := counterpart(plan, layers)) and _plain(plan)}
    places = {_places(one) for _, one in given if _plain(one)}
    found: list[tuple[str, Plan]] = []
    for _, plan in given:
        random = None if _plain(plan) else counterpart(plan, layers)
        if random is None or _key(random) in known:
            continue
        inside = any(stage.at == "decoder" for stage in plan.stages)
        if not (inside or _places(random) in places) or not _fits(model, random):
            continue
        known.add(_key(random))
        name = _name(random)
        found.append((f"{name} (added)" if name in names else name, random))
    return found


def counterpart(plan: Plan, layers: int) -> Plan | None:
    """The plan that keeps random tokens at the places and budgets of another one.

    Args:
        plan: the other one.
        layers: of the LLM.

    Returns:
        None where a plan can't say it: the strategy sets its own budget, is asked at every layer,
        or goes to a number of tokens in several steps.
    """
    stages = in_steps(built(plan), layers)
    if not stages or any(_unsaid(stage) for stage in stages):
        return None
    drawn = tuple(_random(stage, layers) for stage in stages)
    same: dict[str, object] = {"stages": drawn, "name": None}
    if positions_of(plan) == "compact":  # the method may say so where the plan doesn't
        same["positions"] = "compact"
    return plan.model_copy(update=same)


def _unsaid(stage: ResolvedStage) -> bool:
    place, keep = placement(stage.strategy, stage.plan.at), stage.plan.keep
    if keep is None or stage.part != 1:
        return True
    if not isinstance(place, Decoder):
        return False
    return place.every_layer or (place.steps is not None and isinstance(keep, Average))


def _random(stage: ResolvedStage, layers: int) -> StagePlan:
    shared = {key: getattr(stage.plan, key) for key in SHARED}
    place = placement(stage.strategy, stage.plan.at)
    if stage.plan.layer is None and isinstance(place, Decoder):
        shared["layer"] = place.layer_of(layers)
    if stage.plan.layer is None and isinstance(place, Encoder):
        shared["layer"] = place.layer
    return StagePlan(strategy=BASELINE, **shared)


def _plain(plan: Plan) -> bool:
    return {stage.strategy for stage in plan.stages} == {BASELINE}


def _key(plan: Plan) -> tuple[object, ...]:
    return (*_places(plan), positions_of(plan), plan.images)


def _places(plan: Plan) -> tuple[object, ...]:
    return tuple((s.at, s.layer, str(s.keep), str(s.keep_text)) for s in plan.stages)


def _fits(model: Any, plan: Plan) -> bool:
    """Whether it runs; the method may leave what random can't, such as a layer that it restores."""
    try:
        attach(model, plan).detach()
    except TokenpruneError:
        return False
    return True


def _name(plan: Plan) -> str:
    shown = [
        f"{stage.at}{'' if stage.layer is None else f' {stage.layer}'} keep {keep}"
        for stage, keep in zip(plan.stages, budgets(plan), strict=True)
    ]
    return f"{BASELINE} {', '.join(shown)}"
