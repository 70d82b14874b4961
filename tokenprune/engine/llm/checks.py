"""What is refused when a plan is attached to a multimodal LLM."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenprune.engine.checks import refuse_signals
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.llm.attending import refuse_unread
from tokenprune.engine.llm.stages import DecoderStage, decoder_layers
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import LayerError, PlanError, UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.specs import EncoderSpec, MllmSpec
from tokenprune.interface.strategy import placement
from tokenprune.plan import Average, Plan, Total, numbering


def refuse_stages(plan: Plan, stages: Sequence[ResolvedStage], spec: MllmSpec) -> None:
    """Refuse what a plan wants of a model whose tower or LLM can't give it.

    Raises:
        UnsupportedModelError: naming the stage, or the key of the plan.
    """
    if spec.modalities and plan.images == "frames" and not spec.joins:
        _refuse_joining(spec)
    for stage in stages:
        towers = [one.tower for one in spec.modalities.values() if one.tower is not None]
        if spec.modalities and not towers and stage.plan.at == "encoder":
            whys = [one.unfollowed for one in spec.modalities.values() if one.unfollowed]
            why = f": {whys[0]}" if whys else " yet"
            raise UnsupportedModelError(
                f"tokens aren't followed through the tower of {type(spec.core).__name__}{why}.",
                where=stage.where,
                remedy="Use at: pre_llm or at: decoder with this model.",
            )
        if not spec.modalities and spec.used is None and stage.plan.at != "decoder":
            raise UnsupportedModelError(
                f"the projector reads several feature layers{_said(spec)}, whose tokens would no "
                "longer belong together.",
                where=stage.where,
                remedy="Use at: decoder with this model.",
            )


def _refuse_joining(spec: MllmSpec) -> None:
    why, remedy = "doesn't see every picture as one map of one size, which frames have to be", ""
    if len(spec.modalities) > 1:
        why, remedy = "tells by itself which frames are one video", "; clips are seen as videos"
    raise UnsupportedModelError(
        f"{type(spec.core).__name__} {why}.",
        where="images: frames",
        remedy=f"Use images: separate{remedy}.",
    )


def refuse_compact(plan: Plan, spec: MllmSpec) -> None:
    """Refuse to renumber where the LLM can't, whether the plan or a strategy says so.

    Raises:
        UnsupportedModelError: naming who says so, and what to write.
    """
    renumbers = [said for said in numbering(plan).stated if said.positions == "compact"]
    if spec.renumbers is None or not renumbers:
        return
    by = renumbers[0].by
    if by == "plan":
        raise UnsupportedModelError(
            spec.renumbers, where="positions: compact", remedy="Use positions: original."
        )
    raise UnsupportedModelError(
        f"{spec.renumbers.rstrip('.')}, and '{by}' renumbers them, as its official code does.",
        where=f"positions, which the plan leaves to '{by}'",
        remedy="Write positions: original into the plan.",
    )


def _said(spec: MllmSpec) -> str:
    return f" ({spec.settings['used']} is a list)" if "used" in spec.settings else ""


def feature_prefix(spec: MllmSpec, encoder: EncoderSpec) -> int:
    """Class and register tokens that go to the projector with the patches.

    Raises:
        UnsupportedModelError: the model cuts off more tokens than stand in front of the patches.
    """
    left = encoder.prefix - spec.cut
    if left < 0:
        raise UnsupportedModelError(
            f"the model cuts {spec.cut} token off features that have {encoder.prefix} in front of "
            "the patches, so it loses patches.",
            where=spec.settings.get("cut", ""),
            remedy="Let the model hand on all of this tower's tokens.",
        )
    return left


def refuse_frames(
    plan: Plan, stages: Sequence[ResolvedStage], encoder: EncoderSpec, prefix: int
) -> None:
    """Refuse `images: frames` where frames can't be put together to one video.

    Args:
        plan: the plan.
        stages: its stages.
        encoder: the tower.
        prefix: tokens that stand in front of the patches at the projector.

    Raises:
        UnsupportedModelError: the model has more than the patches of single images.
        PlanError: a strategy that reads frame by frame stands behind one that reads videos.
    """
    if plan.images != "frames":
        return
    if prefix or encoder.grid[0] != 1:
        extra = f"{prefix} class token(s) in front of" if prefix else f"{encoder.grid[0]} frames in"
        raise UnsupportedModelError(
            f"the projector gets {extra} the patches of every image, so images can't be joined "
            "to one video.",
            where="images: frames",
            remedy="Use images: separate with this model.",
        )
    early = [stage for stage in stages if stage.plan.at == "pre_llm"]
    for place, stage in enumerate(early):
        strategy = stage.strategy
        if strategy.companions() is None:
            continue
        if isinstance(stage.plan.keep, Total):
            raise PlanError(
                f"'{strategy.name}' reads every frame by itself, and a total is of the whole "
                "video.",
                where=f"{stage.where}.keep",
                remedy="Write tokens per frame, or a ratio.",
            )
        uneven = any(before.strategy.companions() is None for before in early[:place])
        if uneven or strategy.length != "planned":
            raise PlanError(
                f"'{strategy.name}' reads every frame by itself, so all frames have to come to it, "
                "and leave it, with equally many tokens.",
                where=stage.where,
                remedy="Put it first at pre_llm, or use images: separate.",
            )


def decoder_stages(
    stages: Sequence[ResolvedStage],
    spec: MllmSpec,
    adapter: MllmAdapter,
    runner: EncoderRunner | None,
) -> list[DecoderStage]:
    """The decoder stages, each at its layer, with budgets checked for one image.

    Args:
        stages: the plan's.
        spec: the model as data.
        adapter: the model's family.
        runner: of an encoder whose pictures have one size; None where they may have any, and
            budgets are checked for each as it comes.

    Raises:
        LayerError: there is no such layer, the stages overlap, a strategy reads the layer before
            layer 0, or the model can't be pruned in front of the layer.
        PlanError: an average over the layers stands behind a stage of data-dependent length.
        BudgetError: a budget can't be reached.
        SignalError: a strategy needs what the adapter can't supply, of the model or of a layer.
        UnsupportedModelError: text is to be pruned, and the adapter doesn't name special tokens.
    """
    mine = [stage for stage in stages if stage.plan.at == "decoder"]
    count = len(spec.layers)
    spans = zip(mine, decoder_layers(mine, count), strict=True)
    acting = [(stage, layer) for stage, span in spans for layer in span]
    keeps, found = tuple(stage.plan.keep for stage, _ in acting), []
    layers = tuple(layer for _, layer in acting)
    early = [stage for stage in stages if stage.plan.at == "pre_llm"]
    for place, (stage, layer) in enumerate(acting):
        earlier = (*early, *(one for one, _ in acting[:place]))
        fixed = all(before.strategy.length == "planned" for before in earlier)
        if isinstance(stage.plan.keep, Average) and not fixed:
            raise PlanError(
                "an average over the layers can't be solved behind a stage whose number of tokens "
                "depends on the data.",
                where=f"{stage.where}.keep",
                remedy="Give tokens per image or a ratio.",
            )
        site = Site("decoder", layer, count)
        _refuse_at(stage, site, spec, adapter)
        found.append(DecoderStage(stage, site, place, keeps, layers, fixed, runner is None))
    refuse_unread(found, adapter, spec)
    if runner is not None:
        _check_budgets(found, _arrivals(early, runner), runner.spec.grid)
    return found


def _refuse_at(stage: ResolvedStage, site: Site, spec: MllmSpec, adapter: MllmAdapter) -> None:
    """Refuse a stage in front of a layer where the model can't give what it needs."""
    if site.layer in spec.fixed_layers:
        free = [str(layer) for layer in range(site.layers) if layer not in spec.fixed_layers]
        raise LayerError(
            spec.fixed_layers[site.layer],
            where=f"{stage.where}.layer",
            remedy=f"Layers that can be pruned in front of: {', '.join(free)}.",
        )
    refuse_signals(stage, [site], spec.supplies, adapter)
    if stage.plan.keep_text is not None and spec.special_ids is None:
        raise UnsupportedModelError(
            f"the adapter {adapter.name} doesn't tell which tokens are special, so text can't "
            "be pruned.",
            where=f"{stage.where}.keep_text",
            remedy="Remove 'keep_text', or set MllmSpec.special_ids in the adapter.",
        )


def _check_budgets(stages: Sequence[DecoderStage], arrivals: int, grid: Grid) -> None:
    present = arrivals
    for stage in stages:
        keep = stage.budget(present, arrivals, images=1, tiles=1)
        stage.stage.check(stage.site, present, keep, grid)
        present = keep if stage.stage.strategy.length == "planned" else present


def _arrivals(early: Sequence[ResolvedStage], runner: EncoderRunner) -> int:
    """Visual tokens of one image of the default grid at the LLM's input, at most.

    Raises:
        BudgetError: a pre-LLM stage can't keep what the plan says.
    """
    count = math.prod(runner.spec.grid)
    encoder_stages = runner.layout.stages
    if not (encoder_stages and placement(encoder_stages[-1].strategy, "encoder").restores):
        count = runner.layout.kept(count)
    for stage in early:
        keep = stage.keep(count)
        stage.check(Site.behind(runner.spec.used), count, keep, runner.spec.grid)
        count = keep if stage.strategy.length == "planned" else count
    return count
