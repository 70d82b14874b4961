"""What is refused when a plan is attached, before anything on the model changes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tokenprune.engine.stages import EncoderLayout, ResolvedStage
from tokenprune.errors import CheckpointError, PlanError, SignalError, UnsupportedCallError
from tokenprune.interface.adapter import Adapter, EncoderSpec
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import placement
from tokenprune.interface.tokens import Site, Stage
from tokenprune.plugins.host import host

ONLY_AT: dict[Signal, Stage] = {
    Signal.PREVIOUS_HIDDEN: "encoder",
    Signal.COMPANIONS: "pre_llm",
    Signal.HIDDEN: "pre_llm",
    Signal.CLS_SIMILARITY: "pre_llm",
    Signal.QUESTION_STATE: "pre_llm",
}
"""Signals that exist at one stage only, whatever an adapter offers."""


def check_encoder_stages(layout: EncoderLayout, spec: EncoderSpec) -> None:
    """Solve the budgets for the default grid and refuse what the encoder stage can't carry.

    Raises:
        PlanError: a strategy can't stand here, or the stages don't compose.
        BudgetError: a budget can't be reached.
    """
    for stage in layout.stages:
        if stage.strategy.length != "planned":
            raise PlanError(
                f"'{stage.strategy.name}' keeps a number of tokens that depends on the data, and "
                "all images of a batch share one length inside the encoder.",
                where=stage.where,
                remedy="Put it at pre_llm.",
            )
    for stage in layout.stages[:-1]:
        if placement(stage.strategy, "encoder").restores:
            raise PlanError(
                f"'{stage.strategy.name}' hands on all tokens again after the last block, so no "
                "encoder stage can follow it.",
                where=stage.where,
                remedy="Put it last among the encoder stages.",
            )
    frames, height, width = spec.grid
    layout.sites(frames * height * width)


def refuse_companions(stages: Iterable[ResolvedStage], spec: EncoderSpec) -> None:
    """Refuse learned companion tokens that aren't as wide as the encoder's tokens.

    Raises:
        CheckpointError: naming both widths.
    """
    for stage in stages:
        companions = stage.strategy.companions()
        if companions is not None and companions.shape[-1] != spec.width:
            raise CheckpointError(
                f"'{stage.strategy.name}' was made for tokens of width {companions.shape[-1]}, "
                f"and this {type(spec.entry).__name__} has {spec.width}.",
                where=f"{stage.where}.params",
                remedy="Use a checkpoint that was trained for this encoder.",
            )


def refuse_signals(
    stage: ResolvedStage, offered: Iterable[Signal], layers: int, adapter: Adapter
) -> None:
    """Refuse a strategy whose signals the adapter can't supply.

    Args:
        stage: the stage.
        offered: what there is at this stage, without blocks of one's choice.
        layers: used layers of the encoder or, for a decoder stage, of the LLM.
        adapter: of the encoder or, for a decoder stage, of the MLLM.

    Raises:
        SignalError: naming the adapters that can, or the stage or blocks where there is such a
            signal.
    """
    layer = stage.plan.layer if stage.plan.layer is not None else layers
    wanted = stage.strategy.signals(Site(stage.plan.at, layer, layers))
    missing = [signal.kind for signal in wanted if signal.kind not in set(offered)]
    if missing:
        able = ", ".join(adapters_with(missing)) or "none that is installed"
        raise SignalError(
            f"'{stage.strategy.name}' needs {', '.join(map(str, missing))}, which "
            f"{adapter.name} can't supply for this {type(adapter.model).__name__}.",
            where=stage.where,
            remedy=f"Adapters that can: {able}.",
        )
    for signal in wanted:
        _refuse_place(stage, signal, layers)


def _refuse_place(stage: ResolvedStage, signal: Signal, layers: int) -> None:
    only = ONLY_AT.get(signal.kind, stage.plan.at) if signal.block is None else "pre_llm"
    if only != stage.plan.at:
        raise SignalError(
            f"'{stage.strategy.name}' needs {signal}, which exists at {only} only.",
            where=stage.where,
            remedy=f"Use it at: {only}.",
        )
    if signal.block is not None and not 0 <= signal.block < layers:
        raise SignalError(
            f"'{stage.strategy.name}' needs {signal.kind} of encoder block {signal.block}, which "
            "isn't used.",
            where=stage.where,
            remedy=f"Blocks 0 to {layers - 1} are used by this model.",
        )


def adapters_with(signals: Iterable[Signal]) -> list[str]:
    """Names of installed adapters that can supply all of the signals for some model."""
    wanted = {signal.kind for signal in signals}
    known = {**host().encoders, **host().mllms}
    return [name for name, adapter in known.items() if wanted <= set(adapter.offers)]


def refuse_checkpointing(model: nn.Module, parts: str, whose: str) -> None:
    """Refuse gradient checkpointing, which runs parts again after the call's state is gone.

    Args:
        model: an MLLM or an encoder.
        parts: what would run again, for the message.
        whose: of what.

    Raises:
        UnsupportedCallError: it is switched on.
    """
    active = model.training and any(
        getattr(module, "gradient_checkpointing", False) for module in model.modules()
    )
    if active:
        raise UnsupportedCallError(
            f"gradient checkpointing runs {parts} twice, and a pruned {whose} can't.",
            where=type(model).__name__,
            remedy="Call gradient_checkpointing_disable() before training with a plan.",
        )
