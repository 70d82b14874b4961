"""Tokens of a row of the LLM's batch that a stage may cut: of its images, or of its text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens
from tokenprune.engine.llm.level import Level
from tokenprune.interface.dense import Part
from tokenprune.interface.tokens import Kind, Site, Tokens
from tokenprune.interface.trace import Trace


@dataclass(frozen=True)
class TokenRow:
    """Visual tokens of one sample inside the LLM, or its prunable text tokens.

    Text counts as one image, whose grid (1, 1, T) are the tokens of the prompt.

    Attributes:
        kind: which of both.
        numbers: its images' numbers in the trace; text has none.
        grid: patch grid of each image (t, h, w).
        column: `[N]` columns of the tokens in the sequence at hand.
        image: `[N]` which of the row's images each token is of.
        index: `[N]` patch of that image, or place in the prompt.
        size: `[N]` patches that each token stands for.
        riders: `[N, ...]` values left by earlier stages.
        copy: whether another row of the batch has the same images (beams); not traced.
    """

    kind: Kind
    numbers: tuple[int, ...]
    grid: tuple[int, int, int]
    column: Tensor
    image: Tensor
    index: Tensor
    size: Tensor
    riders: Mapping[str, Tensor]
    copy: bool

    @property
    def frames(self) -> int:
        """Images of the row; a video counts by its frames."""
        return len(self.numbers) * self.grid[0]

    @property
    def shape(self) -> tuple[object, ...]:
        """Rows of equal shape can be put into one dense batch."""
        riders = tuple(sorted((name, value.shape[1:]) for name, value in self.riders.items()))
        return self.column.shape[0], len(self.numbers), self.grid, riders

    def reduced(self, tokens: Tokens, column: Tensor, sample: int) -> TokenRow:
        """What is left of it; columns stay those of before.

        Args:
            tokens: what is left of a dense batch of rows.
            column: `[B, K]` their columns.
            sample: the row's number in the batch.
        """
        patches = math.prod(self.grid)
        return replace(
            self,
            column=column[sample],
            image=tokens.index[sample] // patches,
            index=tokens.index[sample] % patches,
            size=tokens.size[sample],
            riders={name: value[sample] for name, value in tokens.riders.items()},
        )

    def moved(self, level: Level, row: int) -> TokenRow:
        """With columns of the sequence after a shortening."""
        count = int(level.source[row].max()) + 1
        slots = torch.arange(level.length, device=level.source.device)
        place = slots.new_full((count + 1,), 0)
        source = level.source[row].masked_fill(~level.valid[row], count)
        place[source] = slots
        return replace(self, column=place[self.column])


def visual_row(
    images: Sequence[ImageTokens], places: Tensor, entry: Level, row: int, copy: bool
) -> TokenRow | None:
    """The visual tokens of a row, or None without images.

    Args:
        images: the row's images.
        places: `[C]` places of its placeholders in the user's sequence.
        entry: the LLM's input.
        row: number of the row.
        copy: see `TokenRow`.
    """
    if not images:
        return None
    wanted, of, start = [], [], 0
    for number, image in enumerate(images):
        wanted.append(places[start + image.prefix + image.index])
        of.append(torch.full_like(image.index, number))
        start += image.count
    column = _columns(entry, row, torch.cat(wanted))
    names = set.intersection(*(set(image.riders) for image in images))
    return TokenRow(
        kind="visual",
        numbers=tuple(image.number for image in images),
        grid=images[0].grid,
        column=column,
        image=torch.cat(of),
        index=torch.cat([image.index for image in images]),
        size=torch.cat([image.size for image in images]),
        riders={name: torch.cat([image.riders[name] for image in images]) for name in names},
        copy=copy,
    )


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
        grid=(1, 1, int(valid.sum())),
        column=_columns(entry, row, places),
        image=torch.zeros_like(index),
        index=index,
        size=torch.ones(index.shape, device=index.device),
        riders={},
        copy=copy,
    )


def _columns(entry: Level, row: int, places: Tensor) -> Tensor:
    """Columns of the LLM's input that hold `places` of the user's sequence."""
    valid = entry.valid[row]
    slots = torch.arange(entry.length, device=valid.device)
    column_of = slots.new_zeros(int(entry.place[row].max()) + 1)
    column_of[entry.place[row][valid]] = slots[valid]
    return column_of[places]


def dense(
    rows: Sequence[TokenRow], hidden: Tensor, signals: Mapping[str, Tensor], site: Site, seed: int
) -> Tokens:
    """Rows of equal shape as a strategy sees them; images follow each other as frames.

    Args:
        rows: B rows of N tokens.
        hidden: `[B, N, D]`.
        signals: what the strategy asked for.
        site: where this is.
        seed: the plan's.
    """
    frames, height, width = rows[0].grid
    patches = math.prod(rows[0].grid)
    index = torch.stack([row.image * patches + row.index for row in rows])
    grid = (frames * max(len(rows[0].numbers), 1), height, width)
    return Tokens(
        hidden=hidden,
        size=torch.stack([row.size for row in rows]),
        index=index,
        grid=grid,
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
    anchor, slot = part.dense.anchor[sample], part.dense.slot[sample]
    for number, image in enumerate(row.numbers):
        mine, survivors = row.image == number, row.image[anchor] == number
        local = torch.cumsum(survivors, 0) - 1
        own = torch.where(survivors, local, -1)
        moved = torch.where(slot >= 0, own[slot.clamp(min=0)], -1) if len(anchor) else slot
        score = None if part.score is None else part.score[sample : sample + 1, mine]
        kept = row.index[anchor[survivors]]
        trace.record(site, strategy, [image], moved[mine][None], kept[None], score)
