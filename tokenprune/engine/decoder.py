"""Remove visual tokens in front of a layer of the LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from tokenprune.engine.call import CallState
from tokenprune.engine.compaction import Level, shorten, take
from tokenprune.engine.pre_llm import parts
from tokenprune.engine.reducing import ask
from tokenprune.engine.stages import ResolvedStage
from tokenprune.engine.visual_rows import VisualRow, dense, trace_row
from tokenprune.plan import Average
from tokenprune.plan.budget import decoder_keeps, kept
from tokenprune.reduction import Reduction
from tokenprune.tokens import Signal, Site

Rows = list[VisualRow | None]


@dataclass(frozen=True)
class Write:
    """New states of survivors that are not plain copies: means of merged tokens, new tokens.

    Attributes:
        rows: `[b]` rows of the batch.
        column: `[b, N]` columns of their visual tokens before the shortening.
        size: `[b, N]` sizes before it.
        reduction: what to do.
    """

    rows: Tensor
    column: Tensor
    size: Tensor
    reduction: Reduction

    def apply(self, hidden: Tensor) -> Tensor:
        """`[B, T, D]` with the new states in their anchors' columns."""
        rows, column = self.rows.to(hidden.device), self.column.to(hidden.device)
        states = self.reduction.apply(hidden[rows[:, None], column], self.size)
        anchor = self.reduction.gather(column)
        return hidden.index_put((rows[:, None], anchor), states.to(hidden.dtype))


@dataclass(frozen=True)
class Cut:
    """What one stage decided: the shortened sequence and what is written before shortening."""

    level: Level
    writes: tuple[Write, ...]

    def apply(self, hidden: Tensor) -> Tensor:
        """The layer's input, shortened: `[B, T, D]` -> `[B, T', D]`."""
        for write in self.writes:
            hidden = write.apply(hidden)
        return take(hidden, self.level.source)


@dataclass(frozen=True)
class DecoderStage:
    """A decoder stage at its layer.

    Attributes:
        stage: the plan's stage.
        site: layer K and the number of layers.
        place: its position among the decoder stages.
        keeps: budgets of all decoder stages.
        layers: layers of all decoder stages.
        fixed: whether all stages before it keep a number known in advance.
    """

    stage: ResolvedStage
    site: Site
    place: int
    keeps: tuple[int | float | Average, ...]
    layers: tuple[int, ...]
    fixed: bool

    @property
    def reads_attention(self) -> bool:
        """Whether the layer before has to put aside its queries and keys."""
        return Signal.LAST_QUERY_ATTENTION in self.stage.strategy.signals(self.site)

    def budget(self, count: int, arrived: int, images: int) -> int:
        """Tokens to keep of `count` in a sample of several images.

        Budgets in tokens are per image; after a data-dependent stage they are a ceiling.

        Raises:
            BudgetError: it can't be reached.
        """
        where = f"{self.stage.where}.keep"
        keep = _scaled(self.keeps[self.place], images)
        if not self.fixed:
            assert not isinstance(keep, Average)
            return kept(min(keep, count) if isinstance(keep, int) else keep, count, where)
        if not isinstance(keep, Average):
            return kept(keep, count, where)
        scaled = [_scaled(value, images) for value in self.keeps]
        return decoder_keeps(scaled, self.layers, arrived, self.site.layers, where)[self.place]


def cut(
    call: CallState,
    stage: DecoderStage,
    hidden: Tensor,
    before: Level,
    rows: Rows,
    arrived: Sequence[int],
    attention: Tensor | None,
) -> tuple[Cut | None, Rows]:
    """Ask the strategy about every sample and plan the shortened sequence.

    Args:
        call: the running call.
        stage: the stage.
        hidden: input of the layer, `[B, T, D]`.
        before: the sequence it stands for.
        rows: visual tokens of every row.
        arrived: visual tokens of every row at the LLM's input.
        attention: `[B, T]` last-query attention of the layer before, if asked for.

    Returns:
        The decision, None if nothing is removed, and the visual tokens of every row after it.
    """
    survive = before.valid.clone()
    after: Rows = list(rows)
    writes: list[Write] = []
    for bucket in _buckets(rows, arrived):
        picked = [row for row in (rows[number] for number in bucket) if row is not None]
        column = torch.stack([row.column for row in picked])
        places = torch.tensor(bucket, device=column.device)
        count, images = column.shape[1], len(picked[0].numbers)
        states = hidden[places.to(hidden.device)[:, None], column.to(hidden.device)]
        call.watch(stage.site, states)
        signals = {}
        if attention is not None:
            seen = attention.to(column.device)[places[:, None], column]
            signals[Signal.LAST_QUERY_ATTENTION.name] = seen
        tokens = dense(picked, states, signals, stage.site, call.owner.plan.seed)
        keep = stage.budget(count, arrived[bucket[0]], images)
        answer = ask(stage.stage, tokens, keep)
        survive[places[:, None], column] = not answer.changes
        for members, reduction in parts(answer, len(bucket)):
            for offset, member in enumerate(members):
                row, number = picked[member], bucket[member]
                own = _single(reduction, offset)
                after[number] = row.reduced(own)
                if own.changes and not row.copy:
                    trace_row(call.trace, stage.site, stage.stage.strategy.name, row, own)
            if not reduction.changes:
                continue
            survive[places[members][:, None], reduction.gather(column[members])] = True
            if reduction.weight is not None or reduction.created is not None:
                writes.append(
                    Write(places[members], column[members], tokens.size[members], reduction)
                )
    if not writes and bool((survive == before.valid).all()):
        return None, after
    level = shorten(before, survive)
    moved = [row and row.moved(level, number) for number, row in enumerate(after)]
    return Cut(level, tuple(writes)), moved


def _scaled(keep: int | float | Average, images: int) -> int | float | Average:
    if isinstance(keep, Average):
        return keep.model_copy(update={"average": keep.average * images})
    return keep * images if isinstance(keep, int) else keep


def _buckets(rows: Rows, arrived: Sequence[int]) -> list[list[int]]:
    """Row numbers by kind; rows without visual tokens are left out."""
    kinds = {
        number: (row.kind, arrived[number])
        for number, row in enumerate(rows)
        if row is not None and row.column.shape[0]
    }
    ordered = sorted(kinds, key=lambda number: (repr(kinds[number]), number))
    return [list(group) for _, group in groupby(ordered, key=lambda number: kinds[number])]


def _single(reduction: Reduction, offset: int) -> Reduction:
    riders = {name: value[offset : offset + 1] for name, value in reduction.riders.items()}
    return replace(reduction.row(offset), riders=riders)
