"""Which patch of every image ended in which surviving token, through all stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.interface.sites import Grid, Site

Shapes = tuple[tuple[int, int], ...]
"""Rows and columns of several maps."""


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
    """

    site: Site
    strategy: str
    images: tuple[int, ...]
    slot: Tensor | None
    anchor: Tensor
    score: Tensor | None = None


@dataclass(frozen=True)
class TraceStep:
    """One image after one reduction.

    Attributes:
        site: where it happened.
        strategy: who decided.
        assignment: `[N0]` int64, survivor that every original patch is part of now, or -1.
        anchor: `[K]` original patch index of every survivor.
        score: `[N]` score of every token that arrived, if known.
    """

    site: Site
    strategy: str
    assignment: Tensor
    anchor: Tensor
    score: Tensor | None = None

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
        frames, height, width = self.grid
        return frames * height * width

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
        count = math.prod(self.pieces.grids[0])
        sources = self.sources.cpu()
        numbers, piece = torch.unique(sources // count, return_inverse=True)
        traced = [self.pieces.image(int(number)) for number in numbers]
        return _stitched(traced, piece, sources % count)


def _stitched(pieces: Sequence[ImageTrace], piece: Tensor, patch: Tensor) -> list[TraceStep]:
    """The steps of equally long pieces as those of one image, whose patches stand in them.

    Args:
        pieces: with the same steps.
        piece: `[N0]` for every patch of the image its piece.
        patch: `[N0]` and its patch there.
    """
    found = []
    present = torch.ones(len(patch), dtype=torch.bool, device="cpu")
    arrived = torch.arange(pieces[0].patches, device="cpu").expand(len(pieces), -1)
    for number, first in enumerate(pieces[0].steps):
        steps = [one.steps[number] for one in pieces]
        anchor = torch.stack([step.anchor for step in steps])
        slot = torch.stack([step.assignment for step in steps])[piece, patch]
        # which survivor of its piece stands in the place of each patch of the image
        holder = torch.full((len(pieces), pieces[0].patches), -1, device="cpu")
        holder = holder.scatter(
            1, anchor, torch.arange(first.kept, device="cpu").expand_as(anchor)
        )[piece, patch]
        place = (holder >= 0).nonzero()[:, 0]
        # survivors that stand in places of the image, by piece and slot; the last entry is for -1
        numbers = torch.full((len(pieces) * first.kept + 1,), -1, device="cpu")
        numbers[piece[place] * first.kept + holder[place]] = torch.arange(len(place), device="cpu")
        assignment = numbers[torch.where(slot < 0, -1, piece * first.kept + slot)]
        scores = [step.score for step in steps if step.score is not None]
        score = None
        if scores:
            shape = (len(pieces), pieces[0].patches)
            told = torch.zeros(shape, dtype=torch.float32, device="cpu")
            score = told.scatter(1, arrived, torch.stack(scores))[piece, patch][present]
        found.append(TraceStep(first.site, first.strategy, assignment, place, score))
        present, arrived = holder >= 0, anchor
    return found


@dataclass
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
    ) -> None:
        """Note one reduction; see `BatchStep` for shapes."""
        score = None if score is None else score.detach()
        self.records.append(BatchStep(site, strategy, tuple(images), slot, anchor, score))

    @property
    def images(self) -> list[ImageTrace]:
        """Every image's steps, with assignments composed from the original patches on."""
        return [self.image(number) for number in range(len(self.grids))]

    def image(self, number: int) -> ImageTrace:
        """The steps of one image."""
        grid = self.grids[number]
        assignment = torch.arange(grid[0] * grid[1] * grid[2], device="cpu")
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
            steps.append(
                TraceStep(entry.site, entry.strategy, assignment, entry.anchor[row].cpu(), score)
            )
        return ImageTrace(grid, tuple(steps), self.parts.get(number, ()))
