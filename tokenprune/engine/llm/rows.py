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
from tokenprune.engine.lines import each, joined, sent, starts
from tokenprune.engine.maps import Maps
from tokenprune.interface.dense import Dense, Part
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.tokens import Kind, Tokens
from tokenprune.interface.trace import Shapes, Trace


@dataclass(frozen=True)
class Shown:
    """An image in a prompt.

    Attributes:
        image: what is left of it.
        places: `[C]` prompt places of its placeholders, on the CPU.
        row: of the batch.
    """

    image: ImageTokens
    places: Tensor
    row: int


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
        return self.index if len(self.grids) == 1 else self.before()[self.image] + self.index

    def ended(self) -> tuple[TokenRow, Tensor]:
        """The row without the separators of empty lines, and the slots `[S]` of these."""
        if self.ends is None:
            return self, self.slot[:0]
        ends, gone = self.ends.left(self.line())
        return replace(self, ends=ends), gone

    def only(self, index: Tensor) -> TokenRow:
        """The row with its tokens at `index` `[K]` alone, ascending."""
        riders = {name: value[index] for name, value in self.riders.items()}
        names = ("slot", "image", "index", "size")
        mine = {name: getattr(self, name)[index] for name in names}
        return replace(self, riders=riders, **mine)

    def before(self) -> Tensor:
        """`[n]` units in front of each image."""
        ahead = torch.tensor(starts([math.prod(grid) for grid in self.grids]), device="cpu")
        return sent(ahead, self.index.device)

    def moved(self, slot_of: Tensor) -> TokenRow:
        """The row with the slots of the sequence after a shortening.

        Args:
            slot_of: these, by slot of the sequence before.
        """
        ends = self.ends and replace(self.ends, slot=slot_of[self.ends.slot])
        return replace(self, slot=slot_of[self.slot], ends=ends)


def visual_row(
    shown: Sequence[Shown], slot_of: Tensor, copy: bool, seen: Tensor | None = None
) -> TokenRow | None:
    """The visual tokens of a row, or None without images.

    Args:
        shown: the row's images.
        slot_of: slots of the LLM's input, by prompt place of the row.
        copy: see `TokenRow`.
        seen: `[L]` by prompt place, False where the prompt's mask hides a token, which is none to
            be cut then; None where it hides no visual one.
    """
    if not shown:
        return None
    images = [one.image for one in shown]
    places = left_places(shown)
    slot = slot_of[sent(places, slot_of.device)]
    index = joined([image.index for image in images])
    counts = [len(image.index) for image in images]
    names = set.intersection(*(set(image.riders) for image in images))
    row = TokenRow(
        kind="visual",
        numbers=tuple(image.number for image in images),
        grids=tuple(image.grid for image in images),
        slot=slot,
        image=each(range(len(images)), counts, index.device),
        index=index,
        size=joined([image.size for image in images]),
        riders={name: joined([image.riders[name] for image in images]) for name in names},
        copy=copy,
        ends=ends_of(shown, slot_of, seen),
        tiles=sum(image.tiles for image in images),
        parts=tuple(image.parts for image in images),
    )
    if seen is None:
        return row
    return row.only(sent(seen, places.device)[places].nonzero()[:, 0])


def left_places(shown: Sequence[Shown]) -> Tensor:
    """Prompt places of the tokens that are left of a row's images, one behind the other."""
    left = shown_places([one.image for one in shown])
    return sent(joined([one.places for one in shown]), left.device)[left]


def ends_of(shown: Sequence[Shown], slot_of: Tensor, seen: Tensor | None = None) -> LineEnds | None:
    """The separators of a row that leave with their lines, or None without any.

    Args:
        shown: the row's images.
        slot_of: slots of the LLM's input, by prompt place of the row.
        seen: see `visual_row`.
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
    owner = torch.full((sum(image.count for image in images),), -1, device="cpu")
    for number, (_, start, end) in enumerate(found):
        owner[start:end] = number
    stays = kept(images)
    device = stays.device
    ends = torch.tensor([at for at, *_ in found], device="cpu")
    at = torch.cat([one.places for one in shown])[ends]
    there = stays[sent(ends, device)]
    if seen is not None:
        there = there & sent(seen[at], device)
    places = sent(at, device)[there]
    if not len(places):
        return None
    # lines are counted without those whose separator has left
    line = torch.where(there, torch.cumsum(there, 0) - 1, -1)
    owner = sent(owner, device)[shown_units(images, device)]
    of = torch.where(owner < 0, -1, line[owner.clamp(min=0)])
    slot = slot_of[sent(places, slot_of.device)]
    return LineEnds(slot, torch.arange(len(places), device=slot.device), sent(of, slot.device))


def text_row(prunable: Tensor, said: Tensor, slot_of: Tensor, copy: bool) -> TokenRow:
    """The prunable text tokens of a row; places count from the first token that isn't padding.

    Args:
        prunable: `[T]` True for them, by place in the user's sequence, on the CPU.
        said: `[T]` True for the tokens of the prompt, False for padding and labelled answers.
        slot_of: slots of the LLM's input, by prompt place of the row.
        copy: see `TokenRow`.
    """
    places = prunable.nonzero()[:, 0]
    index = sent((torch.cumsum(said, 0) - 1)[places], slot_of.device)
    return TokenRow(
        kind="text",
        numbers=(),
        grids=((1, 1, int(said.sum())),),
        slot=slot_of[sent(places, slot_of.device)],
        image=torch.zeros_like(index),
        index=index,
        size=torch.ones(index.shape, device=index.device),
        riders={},
        copy=copy,
    )


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
    image, unit = places(rows)
    line = unit if len(rows[0].grids) == 1 else rows[0].before()[image] + unit
    index = maps.raster(line)
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


def places(rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
    """Image and patch of the tokens of rows of equal shape, `[B, N]` each."""
    stacked = torch.stack([*(row.image for row in rows), *(row.index for row in rows)])
    image, unit = stacked.view(2, len(rows), -1)
    return image, unit


def reduced(
    rows: Sequence[TokenRow], tokens: Tokens, slot: Tensor, dense: Dense | None
) -> list[TokenRow]:
    """What is left of rows of equal shape; slots stay those of the sequence before the shortening.

    Args:
        rows: B rows.
        tokens: what is left of them.
        slot: `[B, K]` their slots.
        dense: where their tokens go; None if all stay as they are.
    """
    image, index = places(rows)
    if dense is not None:
        image, index = dense.take(image), dense.take(index)
    return [
        replace(
            row,
            slot=slot[sample],
            image=image[sample],
            index=index[sample],
            size=tokens.size[sample],
            riders={name: value[sample] for name, value in tokens.riders.items()},
        )
        for sample, row in enumerate(rows)
    ]


def trace_rows(
    trace: Trace, site: Site, strategy: str, rows: Sequence[TokenRow], part: Part
) -> None:
    """Record what became of visual rows of equal shape, row by row and image by image.

    Merges across images count as dropped; copies aren't recorded.

    Args:
        trace: where to.
        site: where it happened.
        strategy: who decided.
        rows: B rows before.
        part: the decision.
    """
    assert part.dense is not None
    # here a slot is a survivor's number among those that the strategy left, as in `Reduction`
    anchor, slot = part.dense.anchor, part.dense.slot
    images, device = len(rows[0].numbers), anchor.device
    image, unit = places(rows)
    if images == 1:
        found = zip(rows, slot, unit.gather(1, anchor), strict=True)
        for number, (row, to, left) in enumerate(found):
            if not row.copy:
                told = None if part.score is None else part.score[number][None]
                trace.record(site, strategy, [*row.numbers], to[None], left[None], told)
        return
    ahead = torch.arange(len(rows), device=device)[:, None]
    # the images of all rows in a line, and their tokens and survivors image by image
    of = image + ahead * images
    left = of.gather(1, anchor).flatten()
    counts = [torch.bincount(one, minlength=len(rows) * images) for one in (of.flatten(), left)]
    arrived, stayed = torch.stack(counts).tolist()
    tokens, survivors = of.flatten().argsort(stable=True), left.argsort(stable=True)
    moved = torch.full_like(slot, -1)
    if len(left):
        # a survivor's number in its image is its place behind the first one of that
        place = torch.arange(len(left), device=device) - each(starts(stayed), stayed, device)
        own = torch.empty_like(place).scatter(0, survivors, place)
        to = slot.clamp(min=0) + ahead * anchor.shape[1]
        moved = torch.where((slot >= 0) & (left[to] == of), own[to], -1)
    slots = torch.split(moved.flatten()[tokens], arrived)
    anchors = torch.split(unit.gather(1, anchor).flatten()[survivors], stayed)
    score = None if part.score is None else part.score.flatten()[tokens]
    scores = None if score is None else torch.split(score, arrived)
    for number in range(len(slots)):
        row = rows[number // images]
        if not row.copy:
            told = None if scores is None else scores[number][None]
            mine = [row.numbers[number % images]]
            trace.record(site, strategy, mine, slots[number][None], anchors[number][None], told)
