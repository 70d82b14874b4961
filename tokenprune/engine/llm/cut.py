"""Remove visual tokens, and text tokens if asked to, in front of a layer of the LLM.

Index words (prompt place, input column, slot) are those of `level`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.call import CallState
from tokenprune.engine.lines import sent
from tokenprune.engine.llm.level import Level, shorten, take
from tokenprune.engine.llm.row_batches import reduced, tokens_of, trace_rows
from tokenprune.engine.llm.rows import TokenRow
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.text import SiteSignals
from tokenprune.engine.maps import Maps
from tokenprune.interface.dense import Dense, Part
from tokenprune.interface.strategy import placement
from tokenprune.interface.tokens import Tokens

Rows = list[TokenRow | None]


@dataclass(frozen=True)
class Write:
    """New states of survivors that are not plain copies: means of merged tokens, new tokens.

    Attributes:
        rows: `[b]` rows of the batch.
        slot: `[b, N]` slots of their tokens before the shortening.
        dense: where the tokens go.
    """

    rows: Tensor
    slot: Tensor
    dense: Dense

    def apply(self, hidden: Tensor) -> Tensor:
        """`[B, T, D]` with the new states in their anchors' slots."""
        rows, slot = sent(self.rows, hidden.device), sent(self.slot, hidden.device)
        states = self.dense.states(hidden[rows[:, None], slot])
        anchor = self.dense.take(slot)
        return hidden.index_put((rows[:, None], anchor), states.to(hidden.dtype))


@dataclass(frozen=True)
class Cut:
    """What one stage decided: the shortened sequence and what is written before shortening."""

    level: Level
    writes: tuple[Write, ...]

    def apply(self, hidden: Tensor) -> Tensor:
        """The layer's input, shortened: `[B, T, ...]` -> `[B, T', ...]`."""
        if self.writes:
            beside = hidden.flatten(2)
            for write in self.writes:
                beside = write.apply(beside)
            hidden = beside.view(hidden.shape)
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
        The decision, None if nothing is removed, and the tokens of every row after it; their slots
        are those before it, see `moved`.
    """
    survive, left = before.valid.clone(), list(before.counts)
    draft = Draft(call, stage, hidden, signals, survive, left)
    seen = draft.decide(rows, arrived)
    read = draft.decide(texts, [0] * len(texts)) if stage.prunes_text else texts
    if not draft.writes and left == [*before.counts]:
        return None, seen, read
    level = shorten(before, draft.survive, left)
    return Cut(level, tuple(draft.writes)), seen, read


def waiting(rows: Rows) -> bool:
    """Whether any row has tokens that could be cut."""
    return any(row is not None and row.slot.shape[0] for row in rows)


@dataclass
class Draft:
    """The decision of one stage while it is made.

    Attributes:
        call: the running call.
        stage: the stage.
        hidden: input of the layer, `[B, T, D]`.
        signals: what the strategy asked for.
        survive: `[B, T]` True for slots that go on.
        left: how many they are in every row.
        writes: new states of survivors.
    """

    call: CallState
    stage: DecoderStage
    hidden: Tensor
    signals: SiteSignals
    survive: Tensor
    left: list[int]
    writes: list[Write] = field(default_factory=list)

    def decide(self, rows: Rows, arrived: Sequence[int]) -> Rows:
        """Ask about the tokens of every row; they keep their slots for now."""
        after: Rows = list(rows)
        for bucket in _buckets(rows, arrived):
            picked = [row for row in (rows[number] for number in bucket) if row is not None]
            tokens, slots = self._tokens(bucket, picked)
            if tokens.kind == "text":
                keep = self.stage.text_budget(tokens.count)
            else:
                one = picked[0]
                keep = self.stage.budget(tokens.count, arrived[bucket[0]], one.frames, one.tiles)
                if self.stage.unchecked:  # the strategy was not asked at attach
                    self.stage.stage.check(self.stage.site, tokens.count, keep, tokens.grid)
            for part in ask(self.stage.stage, tokens, keep, self.call.conditions):
                some = range(len(picked)) if part.rows is None else part.rows
                members, here = [bucket[row] for row in some], [picked[row] for row in some]
                own = slots if len(here) == len(picked) else slots[list(some)]
                left = self._carry_out(tokens.of(part.rows), part, here, members, own)
                for number, row in zip(members, left, strict=True):
                    after[number] = row
        return after

    def _carry_out(
        self,
        tokens: Tokens,
        part: Part,
        rows: Sequence[TokenRow],
        numbers: Sequence[int],
        slot: Tensor,
    ) -> list[TokenRow]:
        """Note what goes on of rows left equally many tokens, and what is written into it.

        Args:
            tokens: of these rows.
            part: what becomes of them.
            rows: the rows.
            numbers: their numbers in the LLM's batch.
            slot: `[b, N]` slots of their tokens.
        """
        left = replace(tokens, signals={}).after(part, states=False)
        if part.dense is not None:
            batch = self._numbers(numbers, slot.device)
            anchor = part.dense.take(slot)
            stays = self.survive[batch].scatter(1, slot, False).scatter(1, anchor, True)
            self.survive.index_copy_(0, batch, stays)
            if not part.dense.copies:
                self.writes.append(Write(batch, slot, part.dense))
            self._trace(rows, part)
            for number in numbers:
                self.left[number] -= slot.shape[1] - anchor.shape[1]
            slot = anchor
        after = reduced(rows, left, slot, part.dense)
        return [self._ended(row, number) for row, number in zip(after, numbers, strict=True)]

    def _ended(self, row: TokenRow, number: int) -> TokenRow:
        """A row without the separators whose lines are empty."""
        if row.ends is None:
            return row
        row, gone = row.ended()
        self.survive[number].index_fill_(0, gone, False)
        self.left[number] -= len(gone)
        return row

    def _trace(self, rows: Sequence[TokenRow], part: Part) -> None:
        repeated = placement(self.stage.stage.strategy, "decoder").every_layer
        assert part.dense is not None
        # a layer at which nothing was removed is no step of the trace
        idle = repeated and part.dense.length == rows[0].slot.shape[0]
        if not idle and rows[0].kind == "visual":
            trace_rows(self.call.trace, self.stage, rows, part)

    def _tokens(self, bucket: Sequence[int], picked: Sequence[TokenRow]) -> tuple[Tokens, Tensor]:
        slot = torch.stack([row.slot for row in picked])
        rows = self._numbers(bucket, slot.device)
        device = self.hidden.device
        states = self.hidden[sent(rows, device)[:, None], sent(slot, device)]
        site = self.stage.site
        signals = self.signals.of(rows, slot)
        seed = self.call.plan.seed
        return tokens_of(picked, states, signals, site, seed, self._maps(picked[0])), slot

    def _numbers(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """Numbers of rows on a device, `[b]`."""
        if [*rows] == [*range(len(self.left))]:  # all of them, which need no copy
            return torch.arange(len(rows), device=device)
        return sent(torch.tensor(rows, device="cpu"), device)

    def _maps(self, row: TokenRow) -> Maps:
        """The grid on which the strategy sees rows of a shape."""
        return row.maps(placement(self.stage.stage.strategy, "decoder").maps)


def moved(rows: Rows, slot_of: Tensor) -> Rows:
    """Rows with the slots of the sequence after a shortening, `[B, T]` by slot before it."""
    return [row and row.moved(slot_of[number]) for number, row in enumerate(rows)]


def _buckets(rows: Rows, arrived: Sequence[int]) -> list[list[int]]:
    """Row numbers by shape; rows without tokens to cut are left out."""
    kinds = {
        number: (row.shape, arrived[number])
        for number, row in enumerate(rows)
        if row is not None and row.slot.shape[0]
    }
    ordered = sorted(kinds, key=lambda number: (repr(kinds[number]), number))
    return [list(group) for _, group in groupby(ordered, key=lambda number: kinds[number])]
