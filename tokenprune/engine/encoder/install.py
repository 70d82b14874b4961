"""The runner of a vision encoder, checked against the plan before anything changes."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from tokenprune.engine.attachment import ATTACHED, Attachment
from tokenprune.engine.checks import (
    check_encoder_stages,
    refuse_companions,
    refuse_doubles,
    refuse_signals,
)
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.stages import EncoderSchedule
from tokenprune.errors import AlreadyAttachedError
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.signals import View
from tokenprune.interface.sites import Site


def encoder_runner(
    attachment: Attachment,
    adapter: EncoderAdapter,
    spec: Any,
    used: int | None = None,
    given: frozenset[type[View]] = frozenset(),
) -> EncoderRunner:
    """Build the runner of an encoder and check the plan against it.

    Args:
        attachment: the attachment.
        adapter: the encoder's family.
        spec: the encoder as data.
        used: how many of its blocks are read; None for what the spec says.
        given: what a multimodal LLM supplies to pre-LLM stages besides.

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
    layout = EncoderSchedule(encoder_stages, spec.used, spec.grid)
    check_encoder_stages(layout, spec)
    attachment.notes |= layout.notes
    refuse_companions(later, spec)
    for stage in encoder_stages:
        refuse_signals(stage, layout.sites_of(stage), spec.supplies, adapter)
    refuse_doubles(later, spec.used)
    for stage in later:
        site = Site("pre_llm", spec.used, spec.used)
        refuse_signals(stage, [site], spec.supplies | given, adapter)
    return EncoderRunner(attachment, adapter, spec, layout, later)


def claim(attachment: Attachment, *modules: nn.Module) -> None:
    """Claim modules for an attachment.

    Raises:
        AlreadyAttachedError: one of them carries a plan.
    """
    for module in modules:
        if module in ATTACHED:
            raise AlreadyAttachedError(
                f"this {type(module).__name__} carries a plan already.",
                remedy="Call detach() on its handle first.",
            )
    attachment.claim(*modules)
