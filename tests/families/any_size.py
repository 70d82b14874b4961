"""Towers for pictures of any size, run picture by picture, from what a trace says was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate, cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.families import scenes
from tests.families.case import Case
from tests.families.models import kimi, lfm2, minicpm, minimax, muse
from tests.families.models.common import PATCH
from tests.families.scenes import Image, Prompt
from tests.families.towers import LAYER, attending, running
from tokenprune.interface.trace import Trace


@dataclass(frozen=True)
class Picture:
    """One picture or frame, as it stands in a tower's batch.

    Attributes:
        row: of the batch.
        units: rows of the members of every unit, within that row of the batch.
        kept: units that are left.
        pairs: units that were merged, with the ones that they went into.
        frames: that its units span, in each of which attention stays.
        windows: rows of the windows in which that of some blocks stays, one behind the other; empty
            where no block has windows.
    """

    row: int
    units: list[list[int]]
    kept: list[int]
    pairs: list[tuple[int, int]]
    frames: int = 1
    windows: list[int] = field(default_factory=list)

    @property
    def left(self) -> list[int]:
        """Rows of the units that are left."""
        return sorted(row for unit in self.kept for row in self.units[unit])

    @property
    def gone(self) -> list[int]:
        """Rows of the others."""
        return [row for n, unit in enumerate(self.units) if n not in self.kept for row in unit]

    def hidden(self, *, windowed: bool = False) -> list[list[int]]:
        """Of every frame, or window, the rows that are gone, counted from its first one."""
        everything = sorted(row for unit in self.units for row in unit)
        lengths = [len(everything) // self.frames] * self.frames
        if windowed:
            lengths = self.windows
        starts = accumulate(lengths, initial=everything[0])
        return [
            [row - start for row in self.gone if start <= row < start + length]
            for start, length in zip(starts, lengths, strict=False)
        ]


Pass = list[Picture]
ROWS = ("mistral3", "llava_pixtral", "paddleocr_vl", "video_llama_3", "ernie4_5_vl_moe")
ROWS += ("minicpmv4_6", "minicpmv4_7", "kimi_k25", "lighton_ocr", "minimax_m3_vl", "mistral_large4")
ROWS += ("hunyuan_vl", "minicpm_ocr", "muse_glimmer", "muse_spark", "hy_v4_vl", "cosmos3_edge")
"""Families whose pictures stand one behind the other; others are padded to the longest."""
SIDES = {("llava_pixtral", "image"): 1, ("video_llama_3", "image"): 1}
"""Rows and columns of patches of a unit; 2 in most."""


PARTED = (
    "PaddleOCR",
    "VideoLlama3",
    "Ernie",
    "MiniCPM",
    "Kimi",
    "MiniMax",
    "Cosmos3",
    "HunYuan",
    "HYV4",
    "Muse",
)
"""What blocks are called that attend picture by picture."""
BEHIND = ("video_llama_3", "ernie4_5_vl_moe", "minimax_m3_vl", "cosmos3_edge")
"""Families in which the patches of a unit stand one behind the other."""
SPANS = {"ernie4_5_vl_moe": 2, "kimi_k25": kimi.FRAMES}
"""Frames of a clip that a unit spans; 1 in most."""


def passes(case: Case, prompts: list[Prompt], trace: Trace, side: int | None = None) -> list[Pass]:
    """Every pass through the tower, images first, after the first step of a trace.

    Args:
        case: the family.
        prompts: of the scene.
        trace: of a call.
        side: rows and columns of patches of a unit; None for what it is in the family.
    """
    images = [pieces(case, image) for image in scenes.images(prompts)]
    span = SPANS.get(case.name, 1)
    clips = [[(clip.height, clip.width)] * (clip.frames // span) for clip in scenes.videos(prompts)]
    if isinstance(case, minicpm.MiniCpm | kimi.Kimi):  # frames are pictures of their own
        clips = [[frame] for clip in clips for frame in clip]
    if isinstance(case, minimax.MiniMax):  # all frames of a chunk see each other
        parts = [part for clip in scenes.videos(prompts) for part in minimax.chunks(clip)]
        clips = [[(part.frames // minimax.TEMPORAL * part.height, part.width)] for part in parts]
    if isinstance(case, muse.MuseGlimmer):  # two frames are one to the tower
        clips = [clip[:: muse.TEMPORAL] for clip in clips]
    patch = case.row if isinstance(case, minicpm.MiniCpm) else PATCH
    padded, number, found = not case.name.startswith(ROWS), 0, []
    for kind, shown in (("image", images), ("video", clips)):
        pictures, start = Pass(), 0
        wide = side or SIDES.get((case.name, kind), 2)
        for sizes in shown:
            image = trace.images[number]
            number, first = number + 1, 0
            slots = anchors = list(range(image.patches))
            if image.steps:
                slots, anchors = (
                    part.tolist() for part in (image.steps[0].assignment, image.steps[0].anchor)
                )
            for height, width in sizes:
                rows, columns = height // patch, width // patch
                count = rows * columns // wide**2
                kept = [unit - first for unit in anchors if first <= unit < first + count]
                held = {unit: anchors[slots[first + unit]] - first for unit in range(count)}
                pairs = [
                    (unit, into)
                    for unit, into in held.items()
                    if slots[first + unit] >= 0 and unit != into
                ]
                row = len(pictures) if padded else 0
                units = _units(rows, columns, wide, 0 if padded else start)
                deep = span if kind == "video" else 1
                if case.name in BEHIND:
                    every = torch.arange(start, start + deep * rows * columns)
                    units = every.view(deep, count, -1).transpose(0, 1).flatten(1).tolist()
                windows: list[int] = []
                if isinstance(case, muse.MuseGlimmer):  # whose patches stand window by window
                    order, windows = windowed(rows, columns)
                    units = [[start + order.index(one - start) for one in unit] for unit in units]
                apart = deep
                if isinstance(case, kimi.Kimi):  # whose frames see each other
                    ahead, apart = [frame * rows * columns for frame in range(deep)], 1
                    units = [[one + at for at in ahead for one in unit] for unit in units]
                pictures.append(Picture(row, units, kept, pairs, apart, windows))
                start, first = start + deep * rows * columns, first + count
        found += [pictures] if pictures else []
    return found


def pieces(case: Case, image: Image) -> list[tuple[int, int]]:
    """Heights and widths of what the tower sees of a picture."""
    seen = [image]
    if isinstance(case, lfm2.Lfm2Vl):
        seen = lfm2.pieces(image)
    if isinstance(case, minicpm.MiniCpm):
        seen = minicpm.pieces(image)
    return [(one.height, one.width) for one in seen]


def _units(rows: int, columns: int, side: int, start: int) -> list[list[int]]:
    return [
        [
            start + (side * row + down) * columns + side * column + right
            for down in range(side)
            for right in range(side)
        ]
        for row in range(rows // side)
        for column in range(columns // side)
    ]


def windowed(rows: int, columns: int, side: int = muse.SIDE) -> tuple[list[int], list[int]]:
    """Numbers of patches as they stand window by window, and how many each window has."""
    order, lengths = list[int](), list[int]()
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            inside = [
                row * columns + column
                for row in range(top, min(top + side, rows))
                for column in range(left, min(left + side, columns))
            ]
            order, lengths = order + inside, [*lengths, len(inside)]
    return order, lengths


def _windows(tower: Any, block: nn.Module) -> bool:
    """Whether attention of a block stays within windows."""
    number = next(at for at, one in enumerate(tower.layers) if one is block)
    return bool(tower.config.layer_types[number] == "window_attention")


def tower_of(model: Any) -> Any:
    """The module of a model that runs the blocks of its tower."""
    core = model.model
    if hasattr(core, "visual"):
        return getattr(core.visual, "vision_model", core.visual)
    found = ("vision_tower", "vision_encoder", "vision_model")
    return next(getattr(core, name) for name in found if hasattr(core, name))


def blocks(tower: Any) -> list[nn.Module]:
    """The blocks of a tower; of MiniCPM-V's those behind its merger."""
    if hasattr(tower, "blocks"):
        return list(tower.blocks)
    if hasattr(tower, "layers"):
        return list(tower.layers)
    inner = tower.transformer if hasattr(tower, "transformer") else tower.encoder
    return list(inner.layers)[1 if hasattr(tower, "vit_merger") else 0 :]


def hidden(
    tower: Any, shown: Sequence[Pass], patch: pytest.MonkeyPatch, first: int = LAYER + 1
) -> AbstractContextManager[None]:
    """Hide the rows that are gone as keys, from block `first` on."""

    own, turns = blocks(tower), dict[int, Iterator[list[int]]]()
    parted = type(own[0]).__name__.startswith(PARTED)

    def mask(pictures: Pass, query: Tensor, key: Tensor, given: Tensor | None) -> Tensor:
        if parted:  # it attends picture by picture
            frames = (
                rows
                for block in own[first:]
                for one in pictures
                for rows in one.hidden(windowed=bool(one.windows) and _windows(tower, block))
            )
            seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
            seen[:, next(turns.setdefault(id(pictures), cycle(frames)))] = False
            return seen
        seen = torch.ones(len(key), 1, query.shape[2], key.shape[2], dtype=torch.bool)
        if given is not None:
            seen &= given if given.dtype == torch.bool else given == 0
        for picture in pictures:
            seen[picture.row, :, :, picture.gone] = False
        return seen

    return attending([(own[first], own[-1])], shown, mask, patch)


def by_picture(
    tower: Any, shown: Sequence[Pass], *, revived: bool = False
) -> AbstractContextManager[None]:
    """Let blocks from `LAYER` on run on what is left, picture by picture.

    Args:
        tower: of the plain model.
        shown: for every pass.
        revived: whether the attention of block `LAYER` still sees all, and rows that are gone
            keep what they held; else they are zeros.
    """
    waiting, now = list(shown), list[Pass]()

    def short(plain: Callable[..., Any], first: bool) -> Callable[..., Tensor]:
        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if first:
                now.append(waiting.pop(0))
            flat = hidden.dim() == 2
            batch = hidden[None] if flat else hidden
            made = batch.clone() if revived else torch.zeros_like(batch)
            for picture in now[-1]:
                states = batch[picture.row]
                if first:
                    states = _merged(states, picture)
                everything = sorted(row for unit in picture.units for row in unit)
                seen = everything if first and revived else picture.left
                given = _of_rows(kwargs, picture.row, seen)
                if picture.frames > 1 or picture.windows:
                    edges = torch.searchsorted(torch.tensor(seen), kwargs["cu_seqlens"].long())
                    given["cu_seqlens"] = edges.unique().int()
                rows = states[seen] if flat else states[seen][None]
                out = plain(rows, *(None for _ in args), **given)
                out = out if flat else out[0]
                own = [seen.index(row) for row in picture.left]
                made[picture.row, picture.left] = out[own]
            return made[0] if flat else made

        return forward

    return running([blocks(tower)], short)


def _merged(states: Tensor, picture: Picture) -> Tensor:
    """Rows `[T, D]` with units merged into others, member by member."""
    states = states.clone()
    for unit, into in picture.pairs:
        for left, right in zip(picture.units[unit], picture.units[into], strict=True):
            states[right] = (states[left] + states[right]) / 2
    return states


def _of_rows(kwargs: dict[str, Any], row: int, seen: list[int]) -> dict[str, Any]:
    """What a block is given by name, for some rows of one picture, which no mask hides."""
    given = {name: value for name, value in kwargs.items() if "mask" not in name}
    for name, value in given.items():
        if name == "position_embeddings":
            dense = value[0].dim() == 3
            given[name] = tuple(p[row][seen][None] if dense else p[seen] for p in value)
        elif name == "cu_seqlens":
            given[name] = torch.tensor([0, len(seen)])
        elif name == "position_ids" and value is not None:
            given[name] = value[row][seen][None] if value.dim() == 3 else value[seen]
    if "cu_seqlens" in kwargs:
        given["cu_seqlens"] = torch.tensor([0, len(seen)], dtype=torch.int32)
    if "attention_mask" in kwargs:
        given["attention_mask"] = None
    return given
