"""The visual tokens of a call's images, and where they stand in the prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenprune.engine.lines import each, joined, starts
from tokenprune.engine.meter import Meter
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.places import Span
from tokenprune.interface.sites import Grid
from tokenprune.interface.trace import Shapes


@dataclass(frozen=True)
class ImageTokens:
    """What is left of one image in front of the LLM.

    Attributes:
        number: the image's number in the trace.
        grid: patch grid (t, h, w).
        prefix: class tokens in front of the patches that the LLM sees too.
        index: `[K]` patches whose places the survivors hold.
        size: `[K]` patches that each survivor stands for.
        riders: `[K, ...]` values left by earlier stages.
        others: placeholders behind the class tokens that show no unit, see `Places.others`.
        parts: maps that the patches stand in, see `Places.parts`.
        tiles: in how many pieces the tower saw the image.
    """

    number: int
    grid: Grid
    prefix: int
    index: Tensor
    size: Tensor
    riders: Mapping[str, Tensor] = field(default_factory=dict)
    others: Mapping[int, Span | None] = field(default_factory=dict)
    parts: Shapes = ()
    tiles: int = 1

    @property
    def patches(self) -> int:
        """Patches of the unpruned image."""
        return math.prod(self.grid)

    @property
    def count(self) -> int:
        """Placeholders in the prompt."""
        return self.prefix + self.patches + len(self.others)

    @property
    def lined(self) -> bool:
        """Whether separators leave with the last unit of their line."""
        return any(span is not None for span in self.others.values())

    @property
    def complete(self) -> bool:
        """Whether nothing was removed so far."""
        return self.index.shape[0] == self.patches


def shown_units(images: Sequence[ImageTokens], device: torch.device) -> Tensor:
    """`[U]` numbers of the placeholders that show units, counted through all images."""
    first = starts([image.count for image in images])
    hidden = [
        start + at
        for start, image in zip(first, images, strict=True)
        for at in (*range(image.prefix), *image.others)
    ]
    every = torch.arange(sum(image.count for image in images), device="cpu")
    if hidden:
        shows = torch.ones(len(every), dtype=torch.bool, device="cpu")
        every = every[shows.index_fill(0, torch.tensor(hidden, device="cpu"), False)]
    return every.to(device)


def shown(images: Sequence[ImageTokens]) -> Tensor:
    """`[n]` numbers of the placeholders that show survivors, counted through all images."""
    index = joined([image.index for image in images])
    if len(images) > 1:
        kept = [len(image.index) for image in images]
        index = index + each(starts([image.patches for image in images]), kept, index.device)
    if not any(image.prefix or image.others for image in images):
        return index
    return shown_units(images, index.device)[index]


def kept(images: Sequence[ImageTokens]) -> Tensor:
    """`[C]` bool: placeholders of all images, one behind the other, whose token is still there.

    A separator is there as long as any placeholder of its line is.
    """
    stays: list[int] = []
    ends: list[int] = []
    lines: list[Span] = []
    for start, image in zip(starts([image.count for image in images]), images, strict=True):
        stays += range(start, start + image.prefix)
        for at, span in image.others.items():
            if span is None:
                stays.append(start + at)
            else:
                ends.append(start + at)
                lines.append((start + span[0], start + span[1]))
    places = shown(images)
    total = sum(image.count for image in images)
    mask = torch.zeros(total, dtype=torch.bool, device=places.device)
    mask = mask.index_fill(0, places, True)
    if stays:
        mask = mask.index_fill(0, torch.tensor(stays, device=mask.device), True)
    if ends:
        # how many stand in front of each place: two of these numbers tell of any line
        ahead = pad(torch.cumsum(mask, 0), (1, 0))
        first, behind = ahead[torch.tensor(lines, device=mask.device).T]
        mask = mask.index_put((torch.tensor(ends, device=mask.device),), behind > first)
    return mask


def count_pictures(meter: Meter, images: Sequence[ImageTokens]) -> None:
    """Measure the visual tokens that go to the LLM; frames of a video count as images."""
    frames = sum(image.grid[0] for image in images)
    meter.count("llm", sum(image.index.shape[0] for image in images), frames)


def by_row(
    counts: Sequence[int], images: Sequence[ImageTokens], where: str
) -> list[list[ImageTokens]]:
    """The images of every row of a batch, from its numbers of placeholders.

    `generate` repeats every prompt for its beams, and each copy has the same images.

    Args:
        counts: image placeholders of every row.
        images: of all rows, in order.
        where: what the user calls the prompts.

    Raises:
        UnsupportedCallError: the placeholders of a row are not those of whole images.
    """
    total, one = sum(counts), sum(image.count for image in images)
    copies = total // one if one and total % one == 0 else 0
    if not copies or len(counts) % copies:
        raise mismatch(total, one, where)
    rows: list[list[ImageTokens]] = []
    waiting = list(images)
    for row in range(0, len(counts), copies):
        mine, missing = [], counts[row]
        while missing > 0 and waiting:
            mine.append(waiting.pop(0))
            missing -= mine[-1].count
        if missing or any(count != counts[row] for count in counts[row : row + copies]):
            raise mismatch(total, one, where)
        rows += [mine] * copies
    return rows


def mismatch(total: int, one: int, where: str) -> UnsupportedCallError:
    """The error for prompts with `total` placeholders whose images have `one` token in all."""
    return UnsupportedCallError(
        f"the prompts have {total} image placeholders and the images {one} tokens, which can't be "
        "matched row by row.",
        where=where,
        remedy="Give every prompt its own images, in order, with all of their placeholders.",
    )
