"""Which layers of an LLM have an attention that can be read, and for which sites."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.errors import SignalError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import LayerAhead, LayerBefore, LayerValues
from tokenprune.interface.specs import MllmSpec


def attending(adapter: MllmAdapter, spec: MllmSpec, layer: int) -> int | None:
    """The last layer in front of `layer` that has query and key; None if there is none."""
    before = reversed(range(layer))
    return next((n for n in before if adapter.no_query_key(spec.layers[n]) is None), None)


def refuse_unread(stages: Sequence[DecoderStage], adapter: MllmAdapter, spec: MllmSpec) -> None:
    """Refuse stages that read the attention of a layer where there is none to read.

    Args:
        stages: one for every layer at which they act, ascending.
        adapter: the model's family.
        spec: the model as data.

    Raises:
        SignalError: naming the layer, why, and the layers where it can be read.
    """
    readable = [n for n, layer in enumerate(spec.layers) if adapter.no_query_key(layer) is None]
    sites = [stage.site.layer for stage in stages]
    for stage in stages:
        number = stage.site.layer
        why = adapter.no_query_key(spec.layers[number])
        if why is not None and stage.reads(LayerAhead):
            raise _unread(stage, f"layer {number}, which {why}", _listed(readable))
        if not stage.reads(LayerBefore, LayerValues):
            continue
        before = attending(adapter, spec, number)
        if before is None:
            nearest = adapter.no_query_key(spec.layers[number - 1])
            after = [n + 1 for n in readable if n + 1 < len(spec.layers)]
            raise _unread(stage, f"layer {number - 1}, which {nearest}", _listed(after))
        between = [site for site in sites if before < site < number]
        if between:
            what = f"layer {before}, the last one with query and key, behind which a stage prunes"
            raise _unread(stage, f"{what} in front of layer {between[-1]}", f"layer {before + 1}")


def _unread(stage: DecoderStage, what: str, where: str) -> SignalError:
    return SignalError(
        f"'{stage.stage.strategy.name}' in front of layer {stage.site.layer} reads the attention "
        f"of {what}.",
        where=stage.stage.where,
        remedy=f"Let it act in front of {where}." if where else "Use a strategy that doesn't.",
    )


def _listed(layers: Sequence[int]) -> str:
    """In words; a comma for each, since they are seldom one run."""
    if not layers:
        return ""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
