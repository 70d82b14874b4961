"""The row about counts: what each stage left against the plan, and what layers really saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.strategy import placement
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.verify import names
from tokenprune.lab.verify.checks import Bench, counted
from tokenprune.lab.verify.observing import SeenCall
from tokenprune.lab.verify.record import InvariantRow
from tokenprune.plan import Average, PerTile, Total
from tokenprune.testing.plain.comparing import Difference
from tokenprune.testing.plain.fate import fate_of


@dataclass(frozen=True)
class _Count:
    """One count: `found` of `wanted` tokens; a ceiling is missed only from above."""

    what: str
    found: float
    wanted: float
    ceiling: bool = False

    @property
    def missed(self) -> float:
        over = self.found - self.wanted
        return max(over, 0.0) if self.ceiling else abs(over)


def counts(bench: Bench) -> InvariantRow:
    """Tokens left by every stage, image by image, and tokens seen by every block and layer."""
    found: list[_Count] = []
    for seen in bench.forwards:
        found += _budgets(bench, seen)
        found += _encoder_lengths(bench, seen)
        found += _layer_lengths(bench, seen)
    total = Difference(max((one.missed for one in found), default=0.0), len(found))
    faults = [
        f"{one.what}: {one.found:g} tokens, where {one.wanted:g} would be right"
        for one in found
        if one.missed
    ]
    ceilings = sum(one.ceiling for one in found)
    notes = [f"{ceilings} budgets are ceilings"] if ceilings else []
    if bench.subject.tower is None and any(stage.plan.at == "encoder" for stage in bench.stages):
        notes.append("what is left inside the encoder, a share of pieces, isn't counted")
    compared = f"{counted(len(found), 'count')} of {counted(len(bench.forwards), 'sample')}"
    return bench.judged(
        "counts", total, compared, tolerance=0.0, faults=faults, note="; ".join(notes)
    )


def _budgets(bench: Bench, seen: SeenCall) -> Iterator[_Count]:
    """Each stage's budget against the trace; inside an LLM all images of a prompt together."""
    images = [image for image in seen.images if image.patches]
    present, dynamic = [image.patches for image in images], False
    for stage in bench.stages:
        left = [_left_by(stage, *one) for one in zip(images, present, strict=True)]
        pieces = stage.plan.at == "encoder" and bench.subject.tower is None
        for label, found, wanted in [] if pieces else _wanted(stage, seen, images, present, left):
            ceiling = dynamic or stage.strategy.length != "planned"
            ceiling = ceiling or isinstance(stage.plan.keep, Average)
            yield _Count(f"{stage.where}{label}", found, wanted, ceiling)
        dynamic = dynamic or stage.strategy.length != "planned"
        restored = [image.patches for image in images]
        present = restored if _restores(stage) else left


def _wanted(
    stage: ResolvedStage,
    seen: SeenCall,
    images: Sequence[ImageTrace],
    present: Sequence[int],
    left: Sequence[int],
) -> Iterator[tuple[str, float, float]]:
    """What a stage was asked for: part of its name, tokens found, tokens asked for."""
    keep, frames = stage.plan.keep, [image.grid[0] for image in images]
    if isinstance(keep, PerTile):
        frames, keep = [places.pieces for _, places in seen.shown], keep.per_tile
    if isinstance(keep, Average):
        yield ", mean over the layers", seen.average or 0.0, keep.average
    elif isinstance(keep, Total):  # a sample is one prompt
        yield "", sum(left), _asked(keep.total, sum(present), 1)
    elif stage.part < 1:  # one of several steps towards the tokens that the last one keeps
        return
    elif keep is not None and stage.plan.at == "decoder":
        yield "", sum(left), _asked(keep, sum(present), sum(frames))
    elif keep is not None:
        for number, count in enumerate(present):
            yield f", image {number}", left[number], _asked(keep, count, frames[number])


def _asked(keep: int | float, count: int, frames: int) -> int:
    """Tokens per frame, or a share of those that arrive, rounded down and at least one.

    Written down anew from the definition of a plan, so that a solver that is wrong is found out.
    """
    if isinstance(keep, int):
        return min(keep * frames, count)
    return max(1, math.floor(round(keep * count, 6)))


def _left_by(stage: ResolvedStage, image: ImageTrace, present: int) -> int:
    """Tokens of an image behind a stage's last reduction; what restores is counted before it.

    Of several steps of one strategy, each has a layer of its own.
    """
    own, layer = [step for step in image.steps if step.stage == stage.number], stage.plan.layer
    mine = [step.kept for step in own if layer is None or step.site.layer == layer]
    if not mine:
        return present
    return min(mine) if _restores(stage) else mine[-1]


def _restores(stage: ResolvedStage) -> bool:
    return stage.plan.at == "encoder" and placement(stage.strategy, "encoder").restores


def _encoder_lengths(bench: Bench, seen: SeenCall) -> Iterator[_Count]:
    """What the encoder's blocks put out, against the trace."""
    restores = any(answer.restores for answer in seen.answers)
    if bench.plan.images == "frames" or restores or not seen.images:
        return
    tower = bench.subject.tower
    prefix = tower.spec().prefix if tower is not None else 0
    for (part, number), found in seen.lengths.items():
        if part == "encoder":
            image = seen.images[0]
            steps = [step for step in image.steps if step.site.stage == "encoder"]
            passed = [step.kept for step in steps if step.site.layer <= number]
            wanted = prefix + (passed[-1] if passed else image.patches)
            yield _Count(f"output of encoder block {number}", found, wanted)


def _layer_lengths(bench: Bench, seen: SeenCall) -> Iterator[_Count]:
    """What the LLM's layers put out, against the prompt without the tokens that left."""
    if bench.subject.mllm is None:
        return
    stands = bench.subject.stands(seen.inputs, seen.shown)
    length = seen.inputs[names.PROMPT].shape[1]
    fate = fate_of(length, stands, seen.images, seen.answers, -1)
    for (part, number), found in seen.lengths.items():
        if part == "decoder":
            wanted = length - int(fate.hidden(number).sum())
            yield _Count(f"output of LLM layer {number}", found, wanted)
