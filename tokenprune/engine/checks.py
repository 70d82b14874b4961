"""What is refused when a plan is attached, before anything on the model changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Set

from tokenprune.engine.stages import EncoderSchedule, ResolvedStage
from tokenprune.errors import CheckpointError, PlanError, SignalError
from tokenprune.interface.adapter import Adapter
from tokenprune.interface.signals import (
    BlockAttention,
    BlockBefore,
    Companions,
    Signal,
    View,
)
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import EncoderSpec
from tokenprune.interface.strategy import asked, placement
from tokenprune.plugins.matrix import families


def check_encoder_stages(layout: EncoderSchedule) -> None:
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
    layout.sites(math.prod(layout.grid))


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
    stage: ResolvedStage,
    sites: Iterable[Site],
    supplied: Set[type[View]],
    adapter: Adapter,
) -> None:
    """Refuse a strategy whose signals can't be computed where it stands.

    Args:
        stage: the stage.
        sites: where it acts.
        supplied: what signals can be computed from in this model.
        adapter: of the encoder or, for a decoder stage, of the MLLM.

    Raises:
        SignalError: naming the adapters that supply what is needed, or the stage or blocks where
            there is such a signal.
    """
    for site in sites:
        refuse_misplaced(stage, site)
        for signal in asked(stage.strategy, site):
            if not supplied >= {signal.needs}:
                raise _unsupplied(stage, signal, site, adapter)


def refuse_misplaced(stage: ResolvedStage, site: Site) -> None:
    """Refuse signals that no model can have where a strategy stands, or that nothing computes.

    Raises:
        SignalError: naming the signal, and the stage or blocks where there is such a one.
    """
    for signal in asked(stage.strategy, site):
        _refuse_unknown(stage, signal)
        _refuse_place(stage, signal, site)


def _refuse_unknown(stage: ResolvedStage, signal: Signal) -> None:
    """Refuse a signal without a function, or one that takes the name of another."""
    own = Signal.shipped().get(signal.kind.name)
    if own is not None and own.compute is not signal.compute:
        raise SignalError(
            f"'{stage.strategy.name}' asks for a signal of its own by the name '{signal.kind}', "
            "which is that of one that ships.",
            where=stage.where,
            remedy=f"Use Signal.{own.name.upper()}, or another name.",
        )
    if signal.needs is None:
        raise SignalError(
            f"'{stage.strategy.name}' needs {signal}, and nothing says how to compute it.",
            where=stage.where,
            remedy="Give the Signal what it needs and its function (needs, compute).",
        )


def _unsupplied(stage: ResolvedStage, signal: Signal, site: Site, adapter: Adapter) -> SignalError:
    assert signal.needs is not None
    # what towers offer inside is theirs, in whichever model
    known = [one for one in families() if site.stage != "encoder" or one.llm is None]
    able = ", ".join(one.name for one in known if one.offers(signal, site.stage))
    return SignalError(
        f"'{stage.strategy.name}' needs {signal.kind}, which {adapter.name} can't supply for this "
        f"{type(adapter.model).__name__}: it is computed from the {signal.needs.title}.",
        where=stage.where,
        remedy=f"Families that can: {able or 'none that is installed'}.",
    )


def _refuse_place(stage: ResolvedStage, signal: Signal, site: Site) -> None:
    name = stage.strategy.name
    if site.stage not in signal.stages:
        only = " and ".join(signal.stages)
        raise SignalError(
            f"'{name}' needs {signal}, which exists at {only} only.",
            where=stage.where,
            remedy=f"Use it at: {' or '.join(signal.stages)}.",
        )
    if site.stage == "encoder" and site.layer == 0 and signal.reads(BlockBefore):
        raise SignalError(
            f"'{name}' needs {signal}, and there is no block before block 0.",
            where=stage.where,
            remedy="Let it act at a later block, for example layer: 1.",
        )
    if (
        site.stage == "encoder"
        and placement(stage.strategy, "encoder").where == "before"
        and signal.reads(BlockAttention)
    ):
        raise SignalError(
            f"'{name}' acts in front of blocks and needs {signal}, which exists inside them only.",
            where=stage.where,
            remedy="Let the strategy act inside blocks.",
        )
    if signal.reads(Companions) and stage.strategy.companions() is None:
        raise SignalError(
            f"'{name}' needs {signal} and has none.",
            where=stage.where,
            remedy="Return companion tokens from the strategy's companions().",
        )


def refuse_fronts(stage: ResolvedStage, sites: Iterable[Site], adapter: Adapter) -> None:
    """Refuse signals of tokens in front of the patches, of an encoder that has none.

    Raises:
        SignalError: naming the signal.
    """
    for signal in (signal for site in sites for signal in asked(stage.strategy, site)):
        if "P" in signal.axes:
            raise SignalError(
                f"'{stage.strategy.name}' needs {signal}, a value of class and register tokens, "
                f"and {adapter.name} has none.",
                where=stage.where,
                remedy="Use a strategy that reads signals of the patches, [B, N, ...].",
            )


def refuse_blocks(stage: ResolvedStage, site: Site, *, behind: bool) -> None:
    """Refuse signals of blocks that aren't used; of the one right behind, attention can be had.

    Args:
        stage: a pre-LLM stage.
        site: where it acts; its layers are the used blocks.
        behind: whether the encoder has a block behind these.

    Raises:
        SignalError: naming the blocks that can be read.
    """
    more = f", and attention of block {site.layers} can be had" if behind else ""
    for signal in asked(stage.strategy, site):
        if signal.block is None or 0 <= signal.block < site.layers:
            continue
        if signal.block == site.layers and behind and signal.reads(BlockAttention):
            continue
        raise SignalError(
            f"'{stage.strategy.name}' needs {signal.kind} of encoder block {signal.block}, which "
            "isn't used.",
            where=stage.where,
            remedy=f"Blocks 0 to {site.layers - 1} are used by this model{more}.",
        )


def refuse_doubles(stages: Iterable[ResolvedStage], used: int) -> None:
    """Refuse pre-LLM stages that mean different signals by one name.

    Args:
        stages: the pre-LLM stages, which share what the encoder's blocks leave.
        used: encoder blocks that run.

    Raises:
        SignalError: naming the signal and both strategies.
    """
    known: dict[str, tuple[Signal, ResolvedStage]] = {}
    for stage in stages:
        for signal in asked(stage.strategy, Site.behind(used)):
            other, first = known.setdefault(signal.name, (signal, stage))
            if other.compute is not signal.compute:
                raise SignalError(
                    f"'{stage.strategy.name}' and '{first.strategy.name}' mean different signals "
                    f"by the name '{signal}'.",
                    where=stage.where,
                    remedy="Rename one of them.",
                )
