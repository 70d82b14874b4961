"""Tokens of a row of the LLM's batch that a stage may cut: of its images, or of its text.

Index words (prompt place, input column, slot) are those of `level`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens, kept, shown_units
from tokenprune.engine.images import shown as shown_places
from tokenprune.engine.lines import each, starts
from tokenprune.engine.llm.level import Level
from tokenprune.engine.maps import Maps
from tokenprune.interface.dense import Part
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.tokens import Kind, Tokens
from tokenprune.interface.trace import Shapes, Trace


@dataclass(frozen=True)
class Shown:
    """An image in a prompt.

    Attributes:
        image: what is left of it.
        places: `[C]` prompt places of its placeholders.
    """

    image: ImageTokens
    places: Tensor


@dataclass(frozen=True)
class LineEnds:
    """Separators of a row, each at the end of a line of tokens.

    Attributes:
        slot: `[S]` slots of the separators.
        line: `[S]` numbers of their lines.
        of: line of every patch of the row's images, one image behind the other; -1 for none.
    """

    slot: Tensor
    line: Tensor
    of: Tensor

    def left(self, patches: Tensor) -> tuple[LineEnds, Tensor]:
        """Those whose line has one of `patches` `[N]`, and the slots `[S']` of the others."""
        stays = torch.isin(self.line, self.of[patches])
        return LineEnds(self.slot[stays], self.line[stays], self.of), self.slot[~stays]


@dataclass(frozen=True)
class TokenRow:
    """Visual tokens of one sample inside the LLM, or its prunable text tokens.

    Text counts as one image, whose grid (1, 1, T) are the tokens of the prompt.

    Attributes:
        kind: whether the tokens are visual or text.
        numbers: its images' numbers in the trace; text has none.
        grids: patch grid (t, h, w) of each image.
        slot: `[N]` slots of the tokens.
        image: `[N]` which of the row's images each token is of.
        index: `[N]` patch of that image; of text, its number in the prompt without padding.
        size: `[N]` patches that each token stands for.
        riders: `[N, ...]` values left by earlier stages.
        copy: whether another row of the batch has the same images (beams); not traced.
        ends: separators that leave with the line of tokens that they end.
        tiles: in how many pieces the tower saw the images.
        parts: maps that each image's tokens stand in, see `Places.parts`; text has none.
    """

    kind: Kind
    numbers: tuple[int, ...]
    grids: tuple[Grid, ...]
    slot: Tensor
    image: Tensor
    index: Tensor
    size: Tensor
    riders: Mapping[str, Tensor]
    copy: bool
    ends: LineEnds | None = None
    tiles: int = 0
    parts: tuple[Shapes, ...] = ()

    @property
    def frames(self) -> int:
        """Images of the row; a video counts by its frames."""
        return sum(grid[0] for grid in self.grids) if self.numbers else 0

    @property
    def shape(self) -> tuple[object, ...]:
        """Rows of equal shape can be put into one dense batch."""
        riders = tuple(sorted((name, value.shape[1:]) for name, value in self.riders.items()))
        return self.slot.shape[0], len(self.numbers), self.grids, self.parts, self.tiles, riders

    def maps(self, apart: bool) -> Maps:
        """All images as frames of one grid.

        Args:
            apart: whether the maps of an image that the model sees in several are frames, too.
        """
        shapes: list[tuple[int, int]] = []
        for number, grid in enumerate(self.grids):
            parts = self.parts[number] if apart and self.parts else ()
            shapes += parts or [grid[1:]] * grid[0]
        return Maps(tuple(shapes))

    def line(self) -> Tensor:
        """`[N]` numbers of the tokens' units among those of all images."""
        return self._before()[self.image] + self.index

    def reduced(self, tokens: Tokens, slot: Tensor, sample: int, maps: Maps) -> TokenRow:
        """What is left of the row; slots stay those of the sequence before the shortening.

        Args:
            tokens: what is left of a dense batch of rows.
            slot: `[B, K]` their slots.
            sample: the row's number in the batch.
            maps: on whose grid the batch's tokens stand.
        """
        line, before = maps.line(tokens.index[sample]), self._before()
        image = torch.searchsorted(before, line.contiguous(), right=True) - 1
        return replace(
            self,
            slot=slot[sample],
            image=image,
            index=line - before[image],
            size=tokens.size[sample],
            riders={name: value[sample] for name, value in tokens.riders.items()},
        )

    def ended(self) -> tuple[TokenRow, Tensor]:
        """The row without the separators of empty lines, and the slots `[S]` of these."""
        if self.ends is None:
            return self, self.slot[:0]
        ends, gone = self.ends.left(self.line())
        return replace(self, ends=ends), gone

    def _before(self) -> Tensor:
        """`[n]` units in front of each image."""
        counts = torch.tensor([math.prod(grid) for grid in self.grids], device=self.index.device)
        return torch.cumsum(counts, 0) - counts

    def moved(self, level: Level, row: int) -> TokenRow:
        """The row with the slots of the sequence after a shortening.

        Args:
            level: that sequence.
            row: number of the row.
        """
        # one entry more than there were slots before: dummies write there, not over a survivor
        count = int(level.source[row].max()) + 1
        slots = torch.arange(level.length, device=level.source.device)
        slot_of = slots.new_zeros(count + 1)
        slot_of[level.source[row].masked_fill(~level.valid[row], count)] = slots
        ends = self.ends and replace(self.ends, slot=slot_of[self.ends.slot])
        return replace(self, slot=slot_of[self.slot], ends=ends)


def visual_row(shown: Sequence[Shown], entry: Level, row: int, copy: bool) -> TokenRow | None:
    """The visual tokens of a row, or None without images.

    Args:
        shown: the row's images.
        entry: the LLM's input.
        row: number of the row.
        copy: see `TokenRow`.
    """
    if not shown:
        return None
    images = [one.image for one in shown]
    places = torch.cat([one.places for one in shown])[shown_places(images)]
    slot = _slots(entry, row, places)
    index = torch.cat([image.index for image in images])
    counts = [len(image.index) for image in images]
    names = set.intersection(*(set(image.riders) for image in images))
    return TokenRow(
        kind="visual",
        numbers=tuple(image.number for image in images),
        grids=tuple(image.grid for image in images),
        slot=slot,
        image=each(range(len(images)), counts, index.device),
        index=index,
        size=torch.cat([image.size for image in images]),
        riders={name: torch.cat([image.riders[name] for image in images]) for name in names},
        copy=copy,
        ends=ends_of(shown, entry, row),
        tiles=sum(image.tiles for image in images),
        parts=tuple(image.parts for image in images),
    )


def ends_of(shown: Sequence[Shown], entry: Level, row: int) -> LineEnds | None:
    """The separators of a row that leave with their lines, or None without any.

    Args:
        shown: the row's images.
        entry: the LLM's input.
        row: number of the row.
    """
    images = [one.image for one in shown]
    found = [
        (start + at, start + span[0], start + span[1])
        for start, image in zip(starts([image.count for image in images]), images, strict=True)
        for at, span in image.others.items()
        if span is not None
    ]
    if not found:
        return None
    owner = torch.full((sum(image.count for image in images),), -1)
    for number, (_, start, end) in enumerate(found):
        owner[start:end] = number
    stays = kept(images)
    device = stays.device
    ends = torch.tensor([at for at, *_ in found], device=device)
    there = stays[ends]
    places = torch.cat([one.places for one in shown])[ends[there].to(shown[0].places.device)]
    if not len(places):
        return None
    # lines are counted without those whose separator has left
    line = torch.where(there, torch.cumsum(there, 0) - 1, -1)
    owner = owner.to(device)[shown_units(images, device)]
    of = torch.where(owner < 0, -1, line[owner.clamp(min=0)])
    slot = _slots(entry, row, places)
    return LineEnds(slot, torch.arange(len(places), device=slot.device), of.to(slot.device))


def text_row(prunable: Tensor, valid: Tensor, entry: Level, row: int, copy: bool) -> TokenRow:
    """The prunable text tokens of a row; places count from the first token that isn't padding.

    Args:
        prunable: `[T]` True for them, by place in the user's sequence.
        valid: `[T]` False for padding.
        entry: the LLM's input.
        row: number of the row.
        copy: see `TokenRow`.
    """
    places = prunable.nonzero()[:, 0]
    index = (torch.cumsum(valid, 0) - 1)[places]
    return TokenRow(
        kind="text",
        numbers=(),
        grids=((1, 1, int(valid.sum())),),
        slot=_slots(entry, row, places),
        image=torch.zeros_like(index),
        index=index,
        size=torch.ones(index.shape, device=index.device),
        riders={},
        copy=copy,
    )


def _slots(entry: Level, row: int, places: Tensor) -> Tensor:
    """Slots of the LLM's input that hold some prompt places of a row."""
    valid = entry.valid[row]
    slots = torch.arange(entry.length, device=valid.device)
    slot_of = slots.new_zeros(int(entry.place[row].max()) + 1)
    slot_of[entry.place[row][valid]] = slots[valid]
    return slot_of[places]


def dense(
    rows: Sequence[TokenRow],
    hidden: Tensor,
    signals: Mapping[str, Tensor],
    site: Site,
    seed: int,
    maps: Maps,
) -> Tokens:
    """Rows of equal shape as a strategy sees them; images follow each other as frames.

    Images of different sizes stand on a grid as large as the largest of them, parts of which no
    token holds.

    Args:
        rows: B rows of N tokens.
        hidden: `[B, N, D]`.
        signals: what the strategy asked for.
        site: where this is.
        seed: the plan's.
        maps: of every row.
    """
    index = torch.stack([maps.raster(row.line()) for row in rows])
    return Tokens(
        hidden=hidden,
        size=torch.stack([row.size for row in rows]),
        index=index,
        grid=maps.grid,
        site=site,
        signals=signals,
        riders={name: torch.stack([row.riders[name] for row in rows]) for name in rows[0].riders},
        seed=seed,
        kind=rows[0].kind,
    )


def trace_row(
    trace: Trace, site: Site, strategy: str, row: TokenRow, part: Part, sample: int
) -> None:
    """Record what became of a row, image by image; merges across images count as dropped.

    Args:
        trace: where to.
        site: where it happened.
        strategy: who decided.
        row: the row before.
        part: the decision.
        sample: the row's number in it.
    """
    assert part.dense is not None
    # here a slot is a survivor's number among those that the strategy left, as in `Reduction`
    anchor, slot = part.dense.anchor[sample], part.dense.slot[sample]
    of, left, images = row.image, row.image[anchor], len(row.numbers)
    counts = [torch.bincount(one, minlength=images) for one in (of, left)]
    arrived, stayed = torch.stack(counts).tolist()
    # image by image; then a survivor's number in its image is its place behind the first of these
    tokens, survivors = of.argsort(stable=True), left.argsort(stable=True)
    place = torch.arange(len(anchor), device=anchor.device)
    place = place - each(starts(stayed), stayed, anchor.device)
    moved = torch.full_like(slot, -1)
    if len(anchor):
        own = torch.empty_like(place).scatter(0, survivors, place)
        to = slot.clamp(min=0)
        moved = torch.where((slot >= 0) & (left[to] == of), own[to], -1)
    scores: Sequence[Tensor | None] = [None] * images
    if part.score is not None:
        scores = torch.split(part.score[sample][tokens], arrived)
    kept_ = torch.split(row.index[anchor[survivors]], stayed)
    for number, own_slots in enumerate(torch.split(moved[tokens], arrived)):
        score = scores[number]
        told = None if score is None else score[None]
        numbers = [row.numbers[number]]
        trace.record(site, strategy, numbers, own_slots[None], kept_[number][None], told)
