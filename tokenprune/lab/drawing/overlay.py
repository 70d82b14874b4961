"""Pictures of what a plan did: kept, merged and dropped patches, one panel a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tokenprune.interface.sites import Stage
from tokenprune.interface.trace import ImageTrace, TraceStep
from tokenprune.lab.drawing.canvas import Canvas, canvas
from tokenprune.lab.drawing.colours import TINT, colour
from tokenprune.lab.drawing.crops import Box, whole
from tokenprune.lab.drawing.panels import PAPER, Panel, strip
from tokenprune.lab.drawing.views import DrawnView, frames_of

PANEL = 448
KEPT_EDGE = (255, 255, 255)
NONE: Mapping[int, int] = MappingProxyType({})

STAGE_NAMES: dict[Stage, str] = {
    "encoder": "inside the encoder",
    "pre_llm": "before the LLM",
    "decoder": "inside the LLM",
}


def draw(
    seen: Image.Image | Sequence[Image.Image] | Sequence[DrawnView],
    trace: ImageTrace,
    *,
    title: str = "",
    every_site: bool = False,
    panel: int = PANEL,
    cropped: tuple[Image.Image, Box] | None = None,
) -> Image.Image:
    """The picture as the model saw it, then one panel a stage of the plan.

    Dropped tokens are darkened, survivors that stand for themselves are outlined in white,
    merged groups are tinted and outlined in one colour each.

    Args:
        seen: the picture, cropped and resized as for the model; of a video all frames, which are
            drawn side by side in reading order; or the views of a picture that the model sees in
            several pieces. A token merged across frames has one colour in all.
        trace: what became of its tokens.
        title: line above the panels.
        every_site: one panel a site instead of the last one of every stage.
        panel: width of a panel in pixels.
        cropped: the picture as it was read and the part that the model sees, see `crops`; a panel
            in front shows both.

    Raises:
        DataError: there are more or fewer pictures than frames.
    """
    large = enlarge(seen, trace, panel)
    original = Panel(
        large.painted(None, paint), "original", f"{trace.patches} tokens, {_grids(large, trace)}"
    )
    steps = trace.steps if every_site else stage_ends(trace.steps)
    shown = [panel_of(large, trace, step) for step in steps]
    first = [] if cropped is None else [whole(*cropped, original.picture.size)]
    return strip([*first, original, *shown], title)


def stage_ends(steps: Sequence[TraceStep]) -> list[TraceStep]:
    """The last step of every stage, in order; steps that restore tokens don't count."""
    last: dict[Stage, TraceStep] = {}
    for step in steps:
        earlier = last.get(step.site.stage)
        if earlier is None or step.kept <= earlier.kept:
            last[step.site.stage] = step
    return list(last.values())


def enlarge(
    seen: Image.Image | Sequence[Image.Image] | Sequence[DrawnView], trace: ImageTrace, panel: int
) -> Canvas:
    """Resize so that every token covers whole pixels and the picture is about `panel` wide.

    Raises:
        DataError: there are more or fewer pictures than frames.
    """
    several = [seen] if isinstance(seen, Image.Image) else seen
    views = [one for one in several if isinstance(one, DrawnView)]
    pictures = [one for one in several if isinstance(one, Image.Image)]
    return canvas(views or frames_of(pictures, trace.grid), panel, PAPER)


def panel_of(large: Canvas, trace: ImageTrace, step: TraceStep) -> Panel:
    """Draw one step over enlarged pictures."""
    merged = merged_slots(step)
    drawn = large.painted(
        step.assignment.numpy(), lambda picture, labels: paint(picture, labels, merged)
    )
    dropped = int((step.assignment < 0).sum())
    parts = [f"{step.kept} of {trace.patches} left"]
    if merged:
        parts.append(f"{len(merged)} merged, {step.kept - len(merged)} single")
    if dropped:
        parts.append(f"{dropped} dropped")
    if _restored(trace, step):
        parts.append("all restored after it")
    stage = STAGE_NAMES[step.site.stage]
    return Panel(drawn, f"{step.strategy} · {stage}", f"{step.site}: {', '.join(parts)}")


def _restored(trace: ImageTrace, step: TraceStep) -> bool:
    place = next(number for number, other in enumerate(trace.steps) if other is step)
    later = trace.steps[place + 1 :]
    return any(s.site.stage == step.site.stage and s.kept > step.kept for s in later)


def merged_slots(step: TraceStep) -> dict[int, int]:
    """Survivors that stand for more than one patch, and the patch whose place each holds."""
    slots, counts = np.unique(step.assignment.numpy(), return_counts=True)
    merged = [int(s) for s, n in zip(slots, counts, strict=True) if s >= 0 and n > 1]
    return {slot: int(step.anchor[slot]) for slot in merged}


def paint(
    picture: Image.Image, labels: NDArray[np.int64], merged: Mapping[int, int] = NONE
) -> Image.Image:
    """Darken, tint and outline the patches of a picture whose size is a multiple of the grid."""
    cell = picture.width // labels.shape[1]
    pixels = np.asarray(picture, dtype=np.float32).copy()
    owner = labels.repeat(cell, axis=0).repeat(cell, axis=1)
    grey = pixels.mean(axis=2, keepdims=True)
    gone = (owner < 0)[..., None]
    pixels = np.where(gone, 0.22 * (0.3 * pixels + 0.7 * grey), pixels)
    for slot, place in merged.items():
        where = owner == slot
        pixels[where] = (1 - TINT) * pixels[where] + TINT * np.asarray(colour(place))
    drawn = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    _outline(ImageDraw.Draw(drawn), labels, merged, cell)
    return drawn


def _outline(
    draw: ImageDraw.ImageDraw, labels: NDArray[np.int64], merged: Mapping[int, int], cell: int
) -> None:
    """Lines along the borders of every survivor, on its own side of the border."""
    width = max(1, cell // 20)
    rows, columns = labels.shape
    framed = np.full((rows + 2, columns + 2), -2, dtype=np.int64)
    framed[1:-1, 1:-1] = labels
    for row in range(rows):
        for column in range(columns):
            slot = int(labels[row, column])
            if slot < 0:
                continue
            edge = colour(merged[slot]) if slot in merged else KEPT_EDGE
            around = framed[row : row + 3, column : column + 3]
            sides = (around[0, 1], around[2, 1], around[1, 0], around[1, 2])
            box = (column * cell, row * cell, (column + 1) * cell - 1, (row + 1) * cell - 1)
            _sides(draw, box, [int(other) != slot for other in sides], edge, width)


def _sides(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    wanted: Sequence[bool],
    edge: tuple[int, int, int],
    width: int,
) -> None:
    left, top, right, bottom = box
    inner = width - 1
    bars = (
        (left, top, right, top + inner),
        (left, bottom - inner, right, bottom),
        (left, top, left + inner, bottom),
        (right - inner, top, right, bottom),
    )
    for bar, draws in zip(bars, wanted, strict=True):
        if draws:
            draw.rectangle(bar, fill=edge)


def _grids(large: Canvas, trace: ImageTrace) -> str:
    """Rows and columns of all views; those of frames once."""
    grids = [f"{rows} x {columns}" for rows, columns in (one.units.shape for one in large.views)]
    frames = trace.grid[0]
    return f"{frames} frames of {grids[0]}" if frames > 1 else " and ".join(grids)
