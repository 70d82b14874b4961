"""Which places of a prompt a trace has removed, told from the fixtures and not by the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import IMAGE, VIDEO
from tests.families.models.deepseek_ocr2 import DeepseekOcr2
from tests.families.models.hunyuan import UNIT, HunYuanVL
from tests.families.models.hyv4 import HyV4
from tests.families.models.tiled import LlavaNext, LlavaOnevision
from tests.families.models.video_llava import PATCHES, VideoLlava
from tests.families.scenes import Image, Prompt, Video
from tokenprune.interface.trace import ImageTrace, Trace

Others = dict[int, tuple[int, int] | None]
"""Places of a picture without a unit: the row that a separator ends, None for what stays."""


@dataclass(frozen=True)
class Shown:
    """What of a prompt shows pictures of one kind.

    Attributes:
        places: (row, column) of every placeholder, in order.
        others: which of them show no unit, see `Others`.
        units: of every picture the numbers of its units' placeholders.
        images: what a trace says of these pictures.
    """

    places: list[tuple[int, int]]
    others: Others
    units: list[list[int]]
    images: list[ImageTrace]


def shown(case: Case, trace: Trace, ids: Tensor, prompts: list[Prompt]) -> list[Shown]:
    """Where the pictures of a trace stand in the prompts, those of each kind together.

    Args:
        case: the family.
        trace: of one call; pictures stand in front of clips.
        ids: `[B, T]` of the call.
        prompts: of the scene.
    """
    waiting, found, ids = iter(trace.images), [], case.told_apart(ids)
    for placeholder in (IMAGE, VIDEO):
        places = [(row, column) for row, column in (ids == placeholder).nonzero().tolist()]
        others = dict(_others(case, placeholder, prompts))
        rest = [at for at in range(len(places)) if at not in others]
        one = Shown(places, others, [], [])
        while rest:
            image = next(waiting)
            one.images.append(image)
            one.units.append(rest[: image.patches])
            rest = rest[image.patches :]
        found.append(one)
    assert next(waiting, None) is None
    return found


def gone(
    case: Case,
    trace: Trace,
    ids: Tensor,
    prompts: list[Prompt],
    step: int = -1,
    *,
    separators: bool = False,
) -> Tensor:
    """`[B, T]` True for the places that are removed after one of the trace's steps.

    Args:
        case: the family.
        trace: see `shown`.
        ids: the same.
        prompts: the same.
        step: which; the last one if not said.
        separators: whether separators stay without their rows.
    """
    removed = torch.zeros(ids.shape, dtype=torch.bool)
    for kind in shown(case, trace, ids, prompts):
        stays = {
            mine[int(index)]
            for mine, image in zip(kind.units, kind.images, strict=True)
            for index in image.steps[step].anchor
        }
        for at, place in enumerate(kind.places):
            span = None if separators else kind.others.get(at)
            row = range(*span) if span else ()
            kept = at in stays or (at in kind.others and (not span or any(x in stays for x in row)))
            removed[place] = not kept
    return removed


def _others(
    case: Case, placeholder: int, prompts: list[Prompt]
) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Places without a unit among all placeholders of one kind."""
    first = 0
    for prompt in prompts:
        for part in prompt:
            if isinstance(part, Image | Video) and isinstance(part, Image) == (
                placeholder == IMAGE
            ):
                for at, span in _within(case, part, prompt).items():
                    yield first + at, span and (first + span[0], first + span[1])
                shown = case.image_ids(part, prompt) if isinstance(part, Image) else None
                first += (case.video_ids(part) if shown is None else shown).count(placeholder)


def _within(case: Case, part: Image | Video, prompt: Prompt) -> Others:
    if isinstance(case, VideoLlava) and isinstance(part, Video):
        return {frame * (PATCHES + 1): None for frame in range(part.frames)}
    if isinstance(case, LlavaOnevision) and isinstance(part, Video):
        count = part.frames * math.ceil(case.patches / 2) ** 2
        return {count: (0, count)}
    if isinstance(case, DeepseekOcr2):
        return {case.image_ids(part, prompt).count(IMAGE) - 1: None}
    if isinstance(case, HyV4):
        frames = part.frames if isinstance(part, Video) else 1
        rows, columns = frames * part.height // UNIT, part.width // UNIT
        ends = [row * (columns + 1) + columns for row in range(rows)]
        return {end: (end - columns, end) for end in ends}
    if isinstance(case, HunYuanVL) and isinstance(part, Image):
        rows, columns = part.height // UNIT, part.width // UNIT
        ends = [(row + 1) * (columns + 1) for row in range(rows)]
        newlines: Others = {end: (end - columns, end) for end in ends}
        return {0: None, **newlines, rows * (columns + 1) + 1: None}
    if isinstance(case, LlavaNext) and isinstance(part, Image):
        base = case.patches**2
        if isinstance(case, LlavaOnevision) and len(scenes.images([prompt])) > 1:
            return {base: (0, base)}
        high, wide = case.shown(part)
        starts = [base + row * (wide + 1) for row in range(high)]
        return {start + wide: (start, start + wide) for start in starts}
    return {}
