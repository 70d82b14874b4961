"""Put a plan in force on a model, in place and reversibly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tokenprune.adapter import Adapter, EncoderAdapter, MllmAdapter
from tokenprune.engine.attachment import ATTACHED, Attachment
from tokenprune.engine.checks import check_encoder_stages, refuse_companions, refuse_signals
from tokenprune.engine.choosing import choose_adapter
from tokenprune.engine.encoder import EncoderRunner
from tokenprune.engine.stages import EncoderLayout, ResolvedStage, built
from tokenprune.errors import AlreadyAttachedError, PlanError
from tokenprune.plan import Plan, load_plan
from tokenprune.tokens import Signal


def attach(
    model: nn.Module,
    plan: Plan | str | Path | Mapping[str, Any],
    adapter: str | type[Adapter] | Adapter | None = None,
) -> Attachment:
    """Put a plan in force on this model instance until the handle is detached.

    Args:
        model: a vision encoder or a multimodal LLM of a supported family.
        plan: a plan, a plan file, or a mapping.
        adapter: name, class or instance; by default found by the model's class.

    Returns:
        The handle, usable as a context manager.

    Raises:
        PlanError: the plan doesn't validate or doesn't fit the model.
        BudgetError: a budget can't be reached; it holds the nearest feasible one.
        SignalError: a strategy needs what the adapter can't supply.
        UnsupportedModelError: no adapter fits, or it refuses a part of the model.
        AlreadyAttachedError: the model or a part of it carries a plan already.
    """
    plan = load_plan(plan)
    chosen = choose_adapter(model, adapter)
    return attach_stages(model, plan, built(plan), chosen)


def attach_stages(
    model: nn.Module,
    plan: Plan,
    stages: list[ResolvedStage],
    chosen: EncoderAdapter | MllmAdapter,
) -> Attachment:
    """As `attach`, with strategies that exist already, such as those that are being trained.

    Args:
        model: the model.
        plan: the plan that the stages are of.
        stages: in the plan's order.
        chosen: the model's adapter.

    Raises:
        TokenpruneError: see `attach`.
    """
    _place_modules(model, stages)
    attachment = Attachment(model, plan, stages)
    try:
        if isinstance(chosen, MllmAdapter):
            from tokenprune.engine import mllm

            mllm.install(attachment, chosen)
        else:
            _install_encoder(attachment, chosen)
    except BaseException:
        attachment.detach()
        raise
    return attachment


def _install_encoder(attachment: Attachment, adapter: EncoderAdapter) -> None:
    if attachment.plan.images == "frames":
        raise PlanError(
            f"{adapter.name} is an encoder, and no prompt says which of its images are the frames "
            "of one video.",
            where="images",
            remedy="Use images: separate, or attach to a multimodal LLM.",
        )
    for stage in attachment.stages:
        if stage.plan.at != "encoder":
            raise PlanError(
                f"'{stage.plan.at}' needs a multimodal LLM, and {adapter.name} is an encoder.",
                where=stage.where,
                remedy="Use at: encoder here.",
            )
    runner = encoder_runner(attachment, adapter, adapter.spec())
    runner.install(attachment.patches)


def encoder_runner(
    attachment: Attachment,
    adapter: EncoderAdapter,
    spec: Any,
    used: int | None = None,
    given: frozenset[Signal] = frozenset(),
) -> EncoderRunner:
    """A checked runner for an encoder, of which `used` blocks are read.

    An MLLM has further signals to give to pre-LLM stages.

    Raises:
        AlreadyAttachedError: the encoder carries a plan already.
        BudgetError: a budget can't be reached on the default grid.
        SignalError: a strategy needs what the adapter can't supply.
        CheckpointError: learned tokens don't fit the encoder's width.
    """
    spec = spec if used is None else dataclasses.replace(spec, used=used)
    claim(attachment, spec.entry)
    encoder_stages = attachment.stages_at("encoder")
    later = attachment.stages_at("pre_llm")
    layout = EncoderLayout(encoder_stages, spec.used, spec.grid)
    check_encoder_stages(layout, spec)
    attachment.notes |= layout.notes
    refuse_companions(later, spec)
    for stage in (*encoder_stages, *later):
        refuse_signals(stage, spec.signals | given, spec.used, adapter)
    return EncoderRunner(attachment, adapter, spec, layout, later)


def claim(attachment: Attachment, *modules: nn.Module) -> None:
    """Claim modules for an attachment.

    Raises:
        AlreadyAttachedError: one of them carries a plan.
    """
    for module in modules:
        if id(module) in ATTACHED:
            raise AlreadyAttachedError(
                f"this {type(module).__name__} carries a plan already.",
                remedy="Call detach() on its handle first.",
            )
    attachment.claim(*modules)


def _place_modules(model: nn.Module, stages: list[ResolvedStage]) -> None:
    example = next(model.parameters(), None)
    for stage in stages:
        modules = stage.strategy.modules()
        if modules is not None and example is not None:
            modules.to(device=example.device)
