"""In front of which layers of the LLM the decoder stages of a plan act."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.engine.decoder import LAYER_BEFORE
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import LayerError, PlanError
from tokenprune.tokens import Site


def decoder_layers(stages: Sequence[ResolvedStage], count: int) -> list[range]:
    """The layers of every decoder stage, ascending over the stages.

    A stage that is asked at every layer acts from the layer behind the stage before it (or 1) up
    to the layer before the next stage (or the last), unless the plan says `layers`.

    Args:
        stages: the decoder stages, in order.
        count: layers of the LLM.

    Raises:
        LayerError: there is no such layer, the stages overlap, or a strategy reads the layer
            before layer 0.
        PlanError: no layer is named.
    """
    bounds = [_bounds(stage, count) for stage in stages]
    found: list[range] = []
    for place, (stage, given) in enumerate(zip(stages, bounds, strict=True)):
        free = found[-1].stop if found else 0
        if given is None:
            later = [bound[0] for bound in bounds[place + 1 :] if bound is not None]
            given = (max(free, 1), later[0] if later else count)
        if given[0] < free or given[0] >= given[1]:
            raise LayerError(
                f"decoder stages need ascending layers that don't overlap: this one acts from "
                f"layer {given[0]} to {given[1] - 1}, those before it up to {free - 1}.",
                where=stage.where,
                remedy=_remedy(free, count),
            )
        found.append(range(*given))
        _refuse_nothing_before(stage, found[-1], count)
    return found


def _bounds(stage: ResolvedStage, count: int) -> tuple[int, int] | None:
    """First layer and the one behind the last; None if the plan leaves them open."""
    plan, strategy = stage.plan, stage.strategy
    if plan.layers is not None:
        if plan.layers[1] >= count:
            raise _missing(stage, "layers", plan.layers[1], count)
        return plan.layers[0], plan.layers[1] + 1
    layer = plan.layer
    if layer is None and strategy.every_layer:
        return None
    layer = strategy.layer_for(count) if layer is None else layer
    if layer is None:
        raise PlanError(
            "which layer to prune in front of?",
            where=f"{stage.where}.layer",
            remedy="Say layer: 2.",
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
    asked = set(stage.strategy.signals(Site("decoder", 0, count))) if layers[0] == 0 else set()
    reading = sorted(str(signal) for signal in asked & LAYER_BEFORE)
    if reading:
        raise LayerError(
            f"in front of layer 0 no layer of the LLM has seen the tokens, and "
            f"'{stage.strategy.name}' reads the layer before ({', '.join(reading)}).",
            where=f"{stage.where}.layer",
            remedy="Use at: pre_llm, or layer: 1.",
        )
