"""Remove visual tokens, and text tokens if asked to, in front of a layer of the LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.call import CallState
from tokenprune.engine.llm.level import Level, shorten, take
from tokenprune.engine.llm.rows import TokenRow, dense, trace_row
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.text import SiteSignals
from tokenprune.engine.pre_llm.stages import parts
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import placement
from tokenprune.interface.tokens import Tokens

Rows = list[TokenRow | None]


@dataclass(frozen=True)
class Write:
    """New states of survivors that are not plain copies: means of merged tokens, new tokens.

    Attributes:
        rows: `[b]` rows of the batch.
        column: `[b, N]` columns of their tokens before the shortening.
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


def cut(
    call: CallState,
    stage: DecoderStage,
    hidden: Tensor,
    before: Level,
    rows: Rows,
    texts: Rows,
    arrived: Sequence[int],
    signals: SiteSignals,
) -> tuple[Cut | None, Rows, Rows]:
    """Ask the strategy about every sample and plan the shortened sequence.

    Visual and text tokens are asked about apart, both as they arrive; one cut takes out both.

    Args:
        call: the running call.
        stage: the stage.
        hidden: input of the layer, `[B, T, D]`.
        before: the sequence it stands for.
        rows: visual tokens of every row.
        texts: prunable text tokens of every row; the stage may leave them alone.
        arrived: visual tokens of every row at the LLM's input.
        signals: what the strategy asked for.

    Returns:
        The decision, None if nothing is removed, and the tokens of every row after it.
    """
    draft = Draft(call, stage, hidden, signals, before.valid.clone())
    seen = draft.decide(rows, arrived)
    read = draft.decide(texts, [0] * len(texts)) if stage.prunes_text else texts
    if not draft.writes and bool((draft.survive == before.valid).all()):
        return None, seen, read
    level = shorten(before, draft.survive)
    return Cut(level, tuple(draft.writes)), _moved(seen, level), _moved(read, level)


def waiting(rows: Rows) -> bool:
    """Whether any row has tokens that could be cut."""
    return any(row is not None and row.column.shape[0] for row in rows)


@dataclass
class Draft:
    """The decision of one stage while it is made.

    Attributes:
        call: the running call.
        stage: the stage.
        hidden: input of the layer, `[B, T, D]`.
        signals: what the strategy asked for.
        survive: `[B, T]` columns that go on.
        writes: new states of survivors.
    """

    call: CallState
    stage: DecoderStage
    hidden: Tensor
    signals: SiteSignals
    survive: Tensor
    writes: list[Write] = field(default_factory=list)

    def decide(self, rows: Rows, arrived: Sequence[int]) -> Rows:
        """Ask about the tokens of every row; they keep their columns for now."""
        after: Rows = list(rows)
        for bucket in _buckets(rows, arrived):
            picked = [row for row in (rows[number] for number in bucket) if row is not None]
            tokens, column = self._tokens(bucket, picked)
            if tokens.kind == "text":
                keep = self.stage.text_budget(tokens.count)
            else:
                frames = picked[0].frames
                keep = self.stage.budget(tokens.count, arrived[bucket[0]], frames)
            answer = ask(self.stage.stage, tokens, keep)
            places = torch.tensor(bucket, device=column.device)
            self.survive[places[:, None], column] = not answer.changes
            for members, reduction in parts(answer, len(bucket)):
                for offset, member in enumerate(members):
                    after[bucket[member]] = self._reduced(picked[member], reduction, offset)
                if reduction.changes:
                    self._apply(places[members], column[members], tokens.size[members], reduction)
        return after

    def _tokens(self, bucket: Sequence[int], picked: Sequence[TokenRow]) -> tuple[Tokens, Tensor]:
        column = torch.stack([row.column for row in picked])
        places = torch.tensor(bucket, device=column.device)
        device = self.hidden.device
        states = self.hidden[places.to(device)[:, None], column.to(device)]
        site = self.stage.site
        self.call.watch(site, states)
        signals = self.signals.of(places, column, self.hidden)
        return dense(picked, states, signals, site, self.call.plan.seed), column

    def _reduced(self, row: TokenRow, reduction: Reduction, offset: int) -> TokenRow:
        own, strategy = _single(reduction, offset), self.stage.stage.strategy
        repeated = placement(strategy, "decoder").every_layer
        # a gate that stays shut, layer after layer, is no step
        idle = repeated and own.changes and own.length == row.column.shape[0]
        if own.changes and not idle and row.kind == "visual" and not row.copy:
            trace_row(self.call.trace, self.stage.site, strategy.name, row, own)
        return row.reduced(own)

    def _apply(self, rows: Tensor, column: Tensor, size: Tensor, reduction: Reduction) -> None:
        self.survive[rows[:, None], reduction.gather(column)] = True
        if reduction.weight is not None or reduction.created is not None:
            self.writes.append(Write(rows, column, size, reduction))


def _moved(rows: Rows, level: Level) -> Rows:
    return [row and row.moved(level, number) for number, row in enumerate(rows)]


def _buckets(rows: Rows, arrived: Sequence[int]) -> list[list[int]]:
    """Row numbers by shape; rows without tokens to cut are left out."""
    kinds = {
        number: (row.shape, arrived[number])
        for number, row in enumerate(rows)
        if row is not None and row.column.shape[0]
    }
    ordered = sorted(kinds, key=lambda number: (repr(kinds[number]), number))
    return [list(group) for _, group in groupby(ordered, key=lambda number: kinds[number])]


def _single(reduction: Reduction, offset: int) -> Reduction:
    riders = {name: value[offset : offset + 1] for name, value in reduction.riders.items()}
    return replace(reduction.row(offset), riders=riders)
