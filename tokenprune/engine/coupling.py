"""Tell a pre-LLM stage with an average budget which decoder stages follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import PlanError
from tokenprune.interface.strategy import placement
from tokenprune.plan import Average
from tokenprune.plan.coupling import Coupling


def couple(stages: Sequence[ResolvedStage], layers: int) -> list[ResolvedStage]:
    """The same stages; the last pre-LLM one knows the decoder stages if it keeps an average.

    Decoder stages that set their own budget are left out: they only lower the mean.

    Args:
        stages: of the plan, in order.
        layers: layers of the LLM.

    Raises:
        PlanError: a number of tokens that the average depends on isn't known in advance.
    """
    coupled = list(stages)
    for place, stage in enumerate(stages):
        if stage.plan.at == "pre_llm" and isinstance(stage.plan.keep, Average):
            early = [before for before in stages[:place] if before.plan.at == "pre_llm"]
            later = [behind for behind in stages if behind.plan.at == "decoder"]
            fixed = [one for one in (stage, *later) if one.strategy.length != "own"]
            _refuse_unknown(stage, [*early, *fixed])
            coupled[place] = replace(stage, coupling=_coupling(stage.plan.keep, later, layers))
    return coupled


def _coupling(keep: Average, later: Sequence[ResolvedStage], layers: int) -> Coupling:
    known: list[tuple[int, int | float]] = []
    for stage in later:
        layer = stage.plan.layer
        layer = placement(stage.strategy, "decoder").layer_of(layers) if layer is None else layer
        if stage.strategy.length == "own" or layer is None or not layer < layers:
            continue  # a layer that is missing is refused where the decoder stages are placed
        if stage.part != 1:
            raise PlanError(
                f"an average in front of the LLM can't be solved with '{stage.plan.strategy}', "
                "whose tokens between its layers depend on how many arrive.",
                where=f"{stage.where}.keep",
                remedy="Leave 'keep' out there, or write a ratio.",
            )
        if isinstance(stage.plan.keep, int | float):
            known.append((layer, stage.plan.keep))
    known.sort(key=lambda pair: pair[0])
    at, keeps = tuple(layer for layer, _ in known), tuple(budget for _, budget in known)
    return Coupling(keep.average, keeps, at, layers)


def _refuse_unknown(stage: ResolvedStage, others: Sequence[ResolvedStage]) -> None:
    for other in others:
        if other.strategy.length != "planned":
            raise PlanError(
                "an average over the layers can't be solved around "
                f"'{other.plan.strategy}' (stages.{other.number}), whose number of tokens depends "
                "on the data.",
                where=f"{stage.where}.keep",
                remedy="Give tokens per image or a ratio.",
            )
