"""Which layers of an LLM have an attention that can be read, and for which sites."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.tensor_parallel import WholeHeads
from tokenprune.errors import SignalError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import (
    LayerAhead,
    LayerAttention,
    LayerBefore,
    LayerValues,
    Signal,
)
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


def read_heads(
    heads: WholeHeads, stages: Sequence[DecoderStage], adapter: MllmAdapter, spec: MllmSpec
) -> None:
    """Note whose attention the stages read.

    Raises:
        SignalError: a process has some of the heads only.
    """
    readable = [layer for layer in spec.layers if adapter.no_query_key(layer) is None]
    parts = [one for layer in readable for one in adapter.projections(layer).values()]
    for stage in stages:
        heads.read(stage.stage, [stage.site], parts)


def untold(stages: Sequence[DecoderStage], adapter: MllmAdapter, spec: MllmSpec) -> str:
    """Why stages can't be told of a further turn of a chat, as a clause; empty if they can.

    Attention is told behind a cache where the cache holds the keys of earlier turns as they are.
    """
    for stage in stages:
        for signal in sorted(stage.signals, key=str):
            if not signal.reads(LayerAttention):
                continue
            who = f"'{stage.stage.strategy.name}' reads '{signal}'"
            number = _read(signal, stage, adapter, spec)
            why = adapter.no_cached_heads(spec.layers[number])
            if not signal.turns:
                return f"{who}, which is of whole prompts"
            if why is None and spec.windows and spec.windows[number] is not None:
                why = "has a window, behind which its cache loses keys"
            if why is not None:
                return f"{who} of layer {number}, which {why}"
    return ""


def layers_read(stages: Sequence[DecoderStage], adapter: MllmAdapter, spec: MllmSpec) -> set[int]:
    """The layers whose attention is read."""
    return {
        _read(signal, stage, adapter, spec)
        for stage in stages
        for signal in stage.signals
        if signal.reads(LayerAttention)
    }


def _read(signal: Signal, stage: DecoderStage, adapter: MllmAdapter, spec: MllmSpec) -> int:
    """The layer whose attention a signal is of."""
    number = stage.site.layer
    before = None if signal.reads(LayerAhead) else attending(adapter, spec, number)
    return number if before is None else before


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
