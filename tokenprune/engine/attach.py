"""Put a plan in force on a model, in place and reversibly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.conditions import Checks, When
from tokenprune.engine.encoder.install import encoder_runner
from tokenprune.engine.encoder.surroundings import Alone
from tokenprune.engine.llm.model import install as install_mllm
from tokenprune.engine.stages import ResolvedStage, built
from tokenprune.engine.trained import refuse_other_models
from tokenprune.errors import PlanError
from tokenprune.interface.adapter import Adapter, EncoderAdapter, MllmAdapter
from tokenprune.plan import Plan, load_plan


def attach(
    model: nn.Module,
    plan: Plan | str | Path | Mapping[str, Any],
    adapter: str | type[Adapter] | Adapter | None = None,
    *,
    checks: When | Checks = "first",
) -> Attachment:
    """Put a plan in force on this model instance until the handle is detached.

    Args:
        model: a vision encoder or a multimodal LLM of a supported family.
        plan: a plan, a plan file, or a mapping.
        adapter: name, class or instance; by default found by the model's class.
        checks: when the values of strategies' answers are checked, which costs operations: at the
            `first` call of every site and shape, or `always`, as tests of strategies do. The
            `checks` of an earlier handle of this plan on this model leave out what was right there.

    Returns:
        The handle, usable as a context manager.

    Raises:
        PlanError: the plan doesn't validate or doesn't fit the model.
        BudgetError: a budget can't be reached; it holds the nearest feasible one.
        SignalError: a strategy needs what the adapter can't supply.
        UnsupportedModelError: no adapter fits, or it refuses a part of the model.
        AlreadyAttachedError: the model or a part of it carries a plan already.
        CheckpointError: a checkpoint is damaged, or was trained for another model.
        UnsupportedCallError: a call of the model is running in this thread, as around a hook.
    """
    plan = load_plan(plan)
    chosen, stages = choose_adapter(model, adapter), built(plan)
    if isinstance(chosen, MllmAdapter):
        refuse_other_models(model, chosen.spec().core, stages)
    return attach_stages(model, plan, stages, chosen, checks=checks)


def attach_stages(
    model: nn.Module,
    plan: Plan,
    stages: list[ResolvedStage],
    chosen: EncoderAdapter | MllmAdapter,
    *,
    checks: When | Checks = "first",
) -> Attachment:
    """As `attach`, with strategies that exist already, such as those that are being trained.

    Args:
        model: the model.
        plan: the plan that the stages are of.
        stages: in the plan's order.
        chosen: the model's adapter.
        checks: see `attach`.

    Raises:
        TokenpruneError: see `attach`.
    """
    attachment = Attachment(model, plan, stages, checks)
    _place_modules(model, stages)
    try:
        if isinstance(chosen, MllmAdapter):
            install_mllm(attachment, chosen)
        else:
            _install_encoder(attachment, chosen)
        attachment.begin()
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
    encoder_runner(attachment, adapter, adapter.spec(), Alone()).install(attachment.patches)


def _place_modules(model: nn.Module, stages: list[ResolvedStage]) -> None:
    # offloaded weights are on `meta` between calls; what is asked follows its tokens then
    real = (parameter for parameter in model.parameters() if parameter.device.type != "meta")
    example = next(real, None)
    for stage in stages:
        modules = stage.strategy.modules()
        if modules is not None and example is not None:
            modules.to(device=example.device)
