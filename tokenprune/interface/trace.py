"""Which patch of every image ended in which surviving token, through all stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.errors.words import counted
from tokenprune.interface.sites import Grid, Site

Shapes = tuple[tuple[int, int], ...]
"""Rows and columns of several maps."""

TOLD = 4
"""Images that the text of a trace tells of one by one (ours)."""


class BatchStep(NamedTuple):
    """One reduction of several images with equally many tokens.

    Attributes:
        site: where it happened.
        strategy: who decided.
        images: numbers of the images, in the order of the rows.
        slot: `[b, N]` slot of every token that arrived, -1 if dropped; None if the strategy
            restored what it had dropped.
        anchor: `[b, K]` original patch index whose place every survivor holds.
        score: `[b, N]` what the choice was made by, if the strategy says.
        stage: number of the plan's stage; None where no stage decided.
    """

    site: Site
    strategy: str
    images: tuple[int, ...]
    slot: Tensor | None
    anchor: Tensor
    score: Tensor | None = None
    stage: int | None = None


@dataclass(frozen=True)
class TraceStep:
    """One image after one reduction.

    Attributes:
        site: where it happened.
        strategy: who decided.
        assignment: `[N0]` int64, survivor that every original patch is part of now, or -1.
        anchor: `[K]` original patch index of every survivor.
        score: `[N]` score of every token that arrived, if known.
        stage: number of the plan's stage; None where no stage decided.
    """

    site: Site
    strategy: str
    assignment: Tensor
    anchor: Tensor
    score: Tensor | None = None
    stage: int | None = None

    def __repr__(self) -> str:
        return f"TraceStep({self.site}, {self.strategy!r}, kept={self.kept})"

    @property
    def kept(self) -> int:
        """Tokens that survived."""
        return self.anchor.shape[0]


@dataclass(frozen=True)
class ImageTrace:
    """What became of the patches of one image.

    Attributes:
        grid: patch grid (t, h, w).
        steps: one a reduction, in the order they happened.
        parts: rows and columns of the maps that its patches stand in one after the other, where
            these share no grid; empty where the grid says it all.
    """

    grid: Grid
    steps: tuple[TraceStep, ...]
    parts: Shapes = ()

    @property
    def shapes(self) -> Shapes:
        """Rows and columns of each of its parts, or of each frame."""
        return self.parts or (self.grid[1:],) * self.grid[0]

    @property
    def patches(self) -> int:
        """Number of patches N0."""
        return math.prod(self.grid)

    @property
    def kept(self) -> int:
        """Tokens left after the last reduction."""
        return self.steps[-1].kept if self.steps else self.patches


@dataclass(frozen=True)
class Origin:
    """Where the patches of an image stand in the pieces that a tower saw.

    Attributes:
        pieces: what the tower's pass did, piece by piece (image, tile, crop or frame).
        sources: `[N0]` for every patch its number among the patches of all pieces.
    """

    pieces: Trace
    sources: Tensor

    def steps(self) -> list[TraceStep]:
        """The pass's steps, told of the image instead of its pieces."""
        sources, edges = self.sources.cpu(), _edges(map(math.prod, self.pieces.grids))
        numbers, piece = torch.unique(
            torch.searchsorted(edges, sources, right=True) - 1, return_inverse=True
        )
        traced = [self.pieces.image(int(number)) for number in numbers]
        first = _edges(one.patches for one in traced)
        return _stitched(traced, sources - edges[numbers][piece] + first[piece])


def _stitched(pieces: Sequence[ImageTrace], patch: Tensor) -> list[TraceStep]:
    """The steps of pieces as those of one image, whose patches stand in them.

    Args:
        pieces: of which one may lack steps, where nothing left it.
        patch: `[N0]` for every patch of the image its number among those of all pieces.
    """
    found, first = list[TraceStep](), _edges(one.patches for one in pieces)
    total, present = int(first[-1]), torch.ones(len(patch), dtype=torch.bool, device="cpu")
    anchors = slots = [torch.arange(one.patches, device="cpu") for one in pieces]
    told = [{_key(one.steps, at): step for at, step in enumerate(one.steps)} for one in pieces]
    for key in sorted(dict.fromkeys(key for own in told for key in own), key=_depth):
        # a piece without this step stays as it is
        steps = [own.get(key) for own in told]
        arrived = _counted_on(anchors, first)
        anchors = [o if s is None else s.anchor for o, s in zip(anchors, steps, strict=True)]
        slots = [o if s is None else s.assignment for o, s in zip(slots, steps, strict=True)]
        anchor = _counted_on(anchors, first)
        slot = _counted_on(slots, _edges(map(len, anchors)))[patch]
        # which survivor of all pieces stands in the place of each patch of the image; -1 for none
        holder = torch.full((total,), -1, device="cpu")
        holder = holder.scatter(0, anchor, torch.arange(len(anchor), device="cpu"))[patch]
        place = (holder >= 0).nonzero()[:, 0]
        # the image's survivors, counted by their places; -1 reads the appended entry
        numbers = torch.full((len(anchor) + 1,), -1, device="cpu")
        numbers[holder[place]] = torch.arange(len(place), device="cpu")
        score, scores = None, [step.score for step in steps if step and step.score is not None]
        if len(scores) == len(pieces):
            whole = torch.zeros(total, dtype=torch.float32, device="cpu")
            score = whole.scatter(0, arrived, torch.cat(scores))[patch][present]
        site, strategy, stage, _ = key
        found.append(TraceStep(site, strategy, numbers[slot], place, score, stage))
        present = holder >= 0
    return found


def _counted_on(parts: Sequence[Tensor], edges: Tensor) -> Tensor:
    """Numbers of every piece as numbers of all pieces, which begin at `edges`; -1 stays."""
    spans = zip(parts, edges[:-1], strict=True)
    return torch.cat([torch.where(own < 0, -1, own + start) for own, start in spans])


Key = tuple[Site, str, int | None, int]
"""A step of pieces: where and whose it is, and how many of such stand in front of it."""


def _key(steps: Sequence[TraceStep], at: int) -> Key:
    alike = [one for one in steps[:at] if _whose(one) == _whose(steps[at])]
    return (*_whose(steps[at]), len(alike))


def _whose(step: TraceStep) -> tuple[Site, str, int | None]:
    return step.site, step.strategy, step.stage


def _depth(key: Key) -> tuple[int, int]:
    return key[0].layer, key[3]


def _edges(sizes: Iterable[int]) -> Tensor:
    """Where spans of these sizes begin, and where the last one ends."""
    return torch.tensor([*accumulate(sizes, initial=0)], device="cpu")


@dataclass(repr=False)
class Trace:
    """All reductions of one call.

    Attributes:
        grids: patch grid (t, h, w) of every image.
        records: reductions, in the order they happened.
        origins: of images that a tower saw in pieces, by number.
        parts: of images whose patches share no grid, by number; see `ImageTrace.parts`.
    """

    grids: list[Grid] = field(default_factory=list)
    records: list[BatchStep] = field(default_factory=list)
    origins: dict[int, Origin] = field(default_factory=dict)
    parts: dict[int, Shapes] = field(default_factory=dict)

    def __repr__(self) -> str:
        told = [self.image(number) for number in range(min(len(self.grids), TOLD))]
        counts = [
            f"{counted(one.patches, 'patch', 'patches')} to {counted(one.kept, 'token')}"
            for one in told
        ]
        more = len(self.grids) - len(told)
        counts += [f"and {counted(more, 'image')} more"] if more else []
        said = ", ".join(counts)
        return f"Trace({counted(len(self.grids), 'image')}{': ' if said else ''}{said})"

    def begin(
        self, images: int, grid: Grid, origin: Origin | None = None, parts: Shapes = ()
    ) -> list[int]:
        """Add images of one grid; their numbers."""
        first = len(self.grids)
        self.grids += [grid] * images
        numbers = list(range(first, first + images))
        self.origins |= {} if origin is None else dict.fromkeys(numbers, origin)
        self.parts |= dict.fromkeys(numbers, parts) if parts else {}
        return numbers

    def forget(self, images: int, records: int) -> None:
        """Go back to so many images and reductions."""
        del self.grids[images:], self.records[records:]
        self.origins = {number: one for number, one in self.origins.items() if number < images}
        self.parts = {number: one for number, one in self.parts.items() if number < images}

    def record(
        self,
        site: Site,
        strategy: str,
        images: Sequence[int],
        slot: Tensor | None,
        anchor: Tensor,
        score: Tensor | None = None,
        stage: int | None = None,
    ) -> None:
        """Note one reduction; see `BatchStep` for shapes."""
        score = None if score is None else score.detach()
        self.records.append(BatchStep(site, strategy, tuple(images), slot, anchor, score, stage))

    @property
    def images(self) -> list[ImageTrace]:
        """Every image's steps, with assignments composed from the original patches on."""
        return [self.image(number) for number in range(len(self.grids))]

    def image(self, number: int) -> ImageTrace:
        """The steps of one image."""
        grid = self.grids[number]
        assignment = torch.arange(math.prod(grid), device="cpu")
        before: dict[str, Tensor] = {}
        steps = self.origins[number].steps() if number in self.origins else []
        assignment = steps[-1].assignment if steps else assignment
        for entry in self.records:
            if number not in entry.images:
                continue
            row = entry.images.index(number)
            if entry.slot is None:
                assignment = before[entry.strategy]
            else:
                before[entry.strategy] = assignment
                slot = entry.slot[row].cpu()
                # -1 reads the appended entry: what was gone stays gone
                assignment = torch.cat((slot, slot.new_full((1,), -1)))[assignment]
            score = None if entry.score is None else entry.score[row].float().cpu()
            anchor = entry.anchor[row].cpu()
            steps.append(
                TraceStep(entry.site, entry.strategy, assignment, anchor, score, entry.stage)
            )
        return ImageTrace(grid, tuple(steps), self.parts.get(number, ()))
