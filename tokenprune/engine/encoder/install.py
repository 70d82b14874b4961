"""The runner of a vision encoder, checked against the plan before anything changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.checks import (
    check_encoder_stages,
    refuse_blocks,
    refuse_companions,
    refuse_doubles,
    refuse_fronts,
    refuse_signals,
)
from tokenprune.engine.encoder.dense_runner import DenseRunner
from tokenprune.engine.encoder.packed_runner import PackedRunner
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.encoder.surroundings import Surroundings
from tokenprune.engine.stages import EncoderSchedule, ResolvedStage
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.signals import View
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.specs import EncoderSpec
from tokenprune.plan.keep import scaled


def encoder_runner(
    attachment: Attachment,
    adapter: EncoderAdapter,
    spec: EncoderSpec,
    around: Surroundings,
    used: int | None = None,
    given: frozenset[type[View]] = frozenset(),
) -> EncoderRunner:
    """Build the runner of an encoder and check the plan against it.

    Args:
        attachment: the attachment.
        adapter: the encoder's family.
        spec: the encoder as data.
        around: what the model around the encoder knows of its passes.
        used: how many of its blocks are read; None for what the spec says.
        given: what a multimodal LLM supplies to pre-LLM stages besides.

    Raises:
        AlreadyAttachedError: the encoder carries a plan already.
        BudgetError: a budget can't be reached on the default grid.
        SignalError: a strategy needs what the adapter can't supply, or heads of which a process
            has some only.
        CheckpointError: learned tokens don't fit the encoder's width.
    """
    spec = spec if used is None else dataclasses.replace(spec, used=used)
    attachment.claim(spec.entry)
    encoder_stages = attachment.stages_at("encoder")
    later = attachment.stages_at("pre_llm")
    grid = _checked_grid(encoder_stages, spec, around.side(None))
    layout = EncoderSchedule(encoder_stages, spec.used, grid)
    check_encoder_stages(layout)
    attachment.notes |= layout.notes
    refuse_companions(later, spec)
    for stage in encoder_stages:
        refuse_signals(stage, layout.sites_of(stage), spec.supplies, adapter)
        attachment.heads.read(stage, layout.sites_of(stage), spec.blocks)
    refuse_doubles(later, spec.used)
    site, packed = Site.behind(spec.used), isinstance(adapter, PackedEncoderAdapter)
    for stage in later:
        refuse_signals(stage, [site], spec.supplies | given, adapter)
        refuse_blocks(stage, site, behind=len(spec.blocks) > spec.used and not packed)
        attachment.heads.read(stage, [site], spec.blocks)
    runner: EncoderRunner
    if isinstance(adapter, PackedEncoderAdapter):
        for stage in encoder_stages:
            refuse_fronts(stage, layout.sites_of(stage), adapter)
        for stage in later:
            refuse_fronts(stage, [site], adapter)
        runner = PackedRunner(attachment, adapter, spec, layout, later, around)
    else:
        runner = DenseRunner(attachment, adapter, spec, layout, later, around)
    attachment.recordings.append(runner.recording)
    return runner


def _checked_grid(stages: Sequence[ResolvedStage], spec: EncoderSpec, side: int) -> Grid:
    """The grid of units (t, h, w) for which budgets are solved at attach.

    Where pictures have any size, one that the plan's budgets in tokens fit into: twice as many
    units as the largest of them (ours). Every picture's own budgets are solved as it comes.
    """
    given = [scaled(stage.plan.keep) for stage in stages]
    budgets = [keep for keep in given if isinstance(keep, int)]
    if not spec.packed or not budgets:
        frames, height, width = spec.grid
        return frames, height // side, width // side
    return (1, 1, 2 * max(budgets))
