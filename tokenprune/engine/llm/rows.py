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
from tokenprune.interface.sites import Grid
from tokenprune.interface.tokens import Kind
from tokenprune.interface.trace import Shapes


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
    images = [picture.image for picture in shown]
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
    left = shown_places([picture.image for picture in shown])
    return sent(joined([picture.places for picture in shown]), left.device)[left]


def ends_of(shown: Sequence[Shown], slot_of: Tensor, seen: Tensor | None = None) -> LineEnds | None:
    """The separators of a row that leave with their lines, or None without any.

    Args:
        shown: the row's images.
        slot_of: slots of the LLM's input, by prompt place of the row.
        seen: see `visual_row`.
    """
    images = [picture.image for picture in shown]
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
    at = torch.cat([picture.places for picture in shown])[ends]
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
