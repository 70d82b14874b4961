"""Plans of static length: the number of tokens before, and the choice after encoding.

An engine has to reserve places in the prompt before any feature exists, and fills them when the
vision tower has run. `count` gives the number of places from the grid alone, `select` the tokens
that take them, from features alone. Stages inside a tower are run by `encoder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.conditions import Checks, Conditions
from tokenprune.engine.stages import EncoderSchedule, ResolvedStage, built
from tokenprune.errors import PlanError, SignalError
from tokenprune.integrations.given import (
    check_signals,
    checked_grid,
    defined,
    missing_remedy,
    of_name,
)
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.strategy import Budget, placement
from tokenprune.interface.tokens import Tokens
from tokenprune.plan import Plan, Total, load_plan

__all__ = ["Selected", "count", "select"]

AnyPlan = Plan | str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Selected:
    """What a plan leaves of the visual features of some images of one grid.

    Attributes:
        features: `[B, K, D]`, kept, merged or made anew.
        index: `[B, K]` int64, patch (raster order) whose place each holds; for position ids.
        size: `[B, K]` float32, patches that each stands for.
        levels: `[B, K, d]`, the same tokens of further depths of a packed tower (DeepStack).
    """

    features: Tensor
    index: Tensor
    size: Tensor
    levels: tuple[Tensor, ...] = ()


def count(grid: Grid, plan: AnyPlan, *, used: int | None = None, tiles: int | None = None) -> int:
    """Tokens that `select`, or an `encoder` with the plan, will leave of an image of this grid.

    Args:
        grid: patch grid (t, h, w); budgets in tokens count per frame.
        plan: a plan, a plan file, or a mapping.
        used: how many blocks of the vision tower feed the features, for plans with encoder stages.
        tiles: in how many pieces the tower saw the image, for budgets per tile behind it; None for
            one a frame.

    Raises:
        DataError: the grid is none.
        PlanError: a stage isn't at `pre_llm` (or `encoder`, with `used`), its length depends on
            the data, or its budget is a total over a prompt's images.
        BudgetError: a budget can't be reached.
        LayerError: a stage names a block that isn't used.
    """
    grid = checked_grid(grid)
    stages = static_stages(load_plan(plan), inside=used is not None)
    layout = EncoderSchedule([one for one in stages if one.plan.at == "encoder"], used or 1, grid)
    later = [one for one in stages if one.plan.at == "pre_llm"]
    return left_of(layout, later, grid, tiles)


def left_of(
    layout: EncoderSchedule,
    later: Sequence[ResolvedStage],
    grid: Grid,
    tiles: int | None = None,
    *,
    by_frame: bool = False,
) -> int:
    """Tokens that stages of static length leave of an image.

    Args:
        layout: the encoder stages.
        later: the pre-LLM stages.
        grid: patch grid (t, h, w).
        tiles: in how many pieces the tower saw the image; None for one a frame.
        by_frame: whether the encoder stages act on each frame by itself.

    Raises:
        BudgetError: a budget can't be reached.
        LayerError: a stage names a block that isn't used.
    """
    frames = grid[0] if by_frame else 1
    patches = math.prod(grid) // frames
    left, site = layout.kept(patches), Site.behind(layout.used)
    acting = layout.sites(patches).values()
    if any(placement(one.stage.strategy, "encoder").restores for one in acting):
        left = patches
    left *= frames
    for stage in later:
        budget = Budget(left, stage.keep(left, grid[0], tiles))
        stage.strategy.check(site, budget, grid)
        left = budget.keep
    return left


def select(
    features: Tensor,
    grid: Grid,
    plan: AnyPlan,
    *,
    signals: Mapping[str, Tensor] | None = None,
    prefix: Tensor | None = None,
    tiles: int | None = None,
    used: int = 1,
) -> Selected:
    """The features that a plan leaves.

    Args:
        features: `[B, N, D]` patch features in raster order, N = t * h * w.
        grid: patch grid (t, h, w).
        plan: a plan, a plan file, or a mapping.
        signals: what the strategies ask for, by signal name, `[B, N, ...]`.
        prefix: class and register tokens `[B, P, D]`, if a strategy reads them.
        tiles: in how many pieces the tower saw each image, as `count` was told.
        used: how many blocks of the vision tower feed the features, by which `random` draws; 0
            draws what `attach` does behind a tower that it doesn't follow.

    Raises:
        DataError: the grid is none.
        PlanError: a stage isn't at `pre_llm`, or its length depends on the data; or the features
            don't fill the grid.
        BudgetError: a budget can't be reached.
        SignalError: a strategy needs a signal that wasn't given, or one has the wrong shape.
        ReductionError: a strategy answered wrongly.
        NonFiniteError: the features hold NaN or infinity.
    """
    plan, grid = load_plan(plan), checked_grid(grid)
    _check_features(features, grid)
    batch, patches = features.shape[:2]
    stages, signals, site = static_stages(plan), signals or {}, Site.behind(used)
    asked = [signal for stage in stages for signal in stage.strategy.signals(site)]
    known = defined(asked)
    check_signals(signals, known, features)
    index = torch.arange(patches, device=features.device).expand(batch, patches)
    tokens = Tokens(
        hidden=features,
        size=torch.ones(batch, patches, device=features.device),
        index=index,
        grid=grid,
        site=site,
        prefix=prefix,
        signals=dict(signals),
        seed=plan.seed,
    )
    conditions = Conditions(Checks("always"))  # nothing outlives this call
    for stage in stages:
        tokens = _after(stage, tokens, conditions, known, tiles)
    conditions.settle()
    return Selected(tokens.hidden, tokens.index, tokens.size)


def _check_features(features: Tensor, grid: Grid) -> None:
    patches = grid[0] * grid[1] * grid[2]
    if features.ndim == 3 and features.shape[1] == patches:
        return
    found = f"{features.shape[1]} features" if features.ndim == 3 else f"{list(features.shape)}"
    raise PlanError(
        f"{found} don't fill a grid of {grid}.",
        where="features",
        remedy=f"Give [B, {patches}, D], the patch features alone, without class or newline "
        "tokens.",
    )


def _after(
    stage: ResolvedStage,
    tokens: Tokens,
    conditions: Conditions,
    known: Mapping[str, Signal],
    tiles: int | None,
) -> Tokens:
    missing = [s for s in stage.strategy.signals(tokens.site) if s.name not in tokens.signals]
    if missing:
        raise SignalError(
            f"'{stage.plan.strategy}' needs {', '.join(map(str, missing))}.",
            where=stage.where,
            remedy=missing_remedy(missing, tokens.signals),
        )
    keep = stage.keep(tokens.count, tokens.grid[0], tiles)
    (part,) = ask(stage, tokens, keep, conditions)
    whole = {n: v for n, v in tokens.signals.items() if not of_name(n, known).per_token}
    riding = {n: v for n, v in tokens.signals.items() if n not in whole}
    left = replace(tokens, signals=riding).after(part)
    return replace(left, signals={**left.signals, **whole})


def static_stages(plan: Plan, *, inside: bool = False) -> list[ResolvedStage]:
    stages = built(plan)
    check_static(stages)
    for stage in stages:
        if stage.plan.at != "pre_llm" and not inside:
            raise PlanError(
                "a stage at 'encoder' runs inside the vision tower.",
                where=stage.where,
                remedy="Give the tower to tokenprune.integrations.encoder, and count() the blocks "
                "that are used.",
            )
    return stages


def check_static(stages: Sequence[ResolvedStage]) -> None:
    """Refuse what no engine of its own code can run.

    Raises:
        PlanError: a stage is inside the LLM, or its length depends on the data.
    """
    for stage in stages:
        if stage.plan.at == "decoder":
            raise PlanError(
                "a stage at 'decoder' runs inside the LLM, which is the engine's.",
                where=stage.where,
                remedy="Use encoder and pre_llm stages.",
            )
        if isinstance(stage.plan.keep, Total):
            raise PlanError(
                "a total is shared by all images of a prompt, and an engine asks about one.",
                where=f"{stage.where}.keep",
                remedy="Write tokens per image, {per_tile: 64} or a ratio.",
            )
        if stage.strategy.length != "planned":
            raise PlanError(
                f"'{stage.plan.strategy}' keeps a number of tokens that depends on the data.",
                where=stage.where,
                remedy="Use a strategy of static length; places are reserved before features "
                "exist.",
            )
