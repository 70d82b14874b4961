"""Which patch of every image ended in which surviving token, through all stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenprune.interface.sites import Site


@dataclass(frozen=True)
class BatchStep:
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
    """

    grid: tuple[int, int, int]
    steps: tuple[TraceStep, ...]

    @property
    def patches(self) -> int:
        """Number of patches N0."""
        frames, height, width = self.grid
        return frames * height * width

    @property
    def kept(self) -> int:
        """Tokens left after the last reduction."""
        return self.steps[-1].kept if self.steps else self.patches


@dataclass
class Trace:
    """All reductions of one call."""

    grids: list[tuple[int, int, int]] = field(default_factory=list)
    records: list[BatchStep] = field(default_factory=list)

    def begin(self, images: int, grid: tuple[int, int, int]) -> list[int]:
        """Add images of one grid; their numbers."""
        first = len(self.grids)
        self.grids += [grid] * images
        return list(range(first, first + images))

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
        assignment = torch.arange(grid[0] * grid[1] * grid[2])
        before: dict[str, Tensor] = {}
        steps = []
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
        return ImageTrace(grid, tuple(steps))
