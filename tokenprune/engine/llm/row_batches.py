"""Rows of equal shape as one batch that a strategy sees, and what it left of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.engine.lines import each, starts
from tokenprune.engine.llm.rows import TokenRow
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.maps import Maps
from tokenprune.interface.dense import Dense, Part
from tokenprune.interface.sites import Site
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trace import Trace


def tokens_of(
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


def trace_rows(trace: Trace, acts: DecoderStage, rows: Sequence[TokenRow], part: Part) -> None:
    """Record what became of visual rows of equal shape, row by row and image by image.

    Merges across images count as dropped; copies aren't recorded.

    Args:
        trace: where to.
        acts: whose strategy decided, and where.
        rows: B rows before.
        part: the decision.
    """
    assert part.dense is not None
    if len(rows[0].numbers) != 1:
        _trace_by_image(trace, acts, rows, part, part.dense)
        return
    _, unit = places(rows)
    site, stage, name = acts.site, acts.stage, acts.stage.strategy.name
    found = zip(rows, part.dense.slot, unit.gather(1, part.dense.anchor), strict=True)
    for number, (row, slot, left) in enumerate(found):
        if not row.copy:
            score = None if part.score is None else part.score[number][None]
            trace.record(site, name, [*row.numbers], slot[None], left[None], score, stage.number)


def _trace_by_image(
    trace: Trace, acts: DecoderStage, rows: Sequence[TokenRow], part: Part, dense: Dense
) -> None:
    """`trace_rows` of rows with several images: a record for each image, in its own numbers."""
    # here a slot is a survivor's number among those that the strategy left, as in `Reduction`
    anchor, slot = dense.anchor, dense.slot
    images, device = len(rows[0].numbers), anchor.device
    image, unit = places(rows)
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
    stage, name = acts.stage, acts.stage.strategy.name
    for number in range(len(slots)):
        row = rows[number // images]
        if not row.copy:
            told = None if scores is None else scores[number][None]
            mine = [row.numbers[number % images]]
            slot, anchor = slots[number][None], anchors[number][None]
            trace.record(acts.site, name, mine, slot, anchor, told, stage.number)
