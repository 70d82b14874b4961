"""Run the blocks of an encoder of dense batches: attend -> reduce -> feed_forward where asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import index
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.call import CallState
from tokenprune.engine.encoder.attention import (
    BlockCall,
    Projected,
    advance_companions,
    attend,
    project,
)
from tokenprune.engine.encoder.members import Members
from tokenprune.engine.encoder.passes import EntryCall
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.stages import EncoderSite
from tokenprune.interface.packed import squares
from tokenprune.interface.trace import Trace


class DenseRunner(EncoderRunner):
    """The runner of an encoder of batches `[B, P + N, D]`; arguments as of its base."""

    def _open(self, call: CallState, given: EntryCall) -> None:
        call.drop(EncoderState)
        call.grid = self.adapter.call_grid(given.args, given.kwargs)

    def _entered_blocks(self, call: CallState) -> int:
        state = call.state(EncoderState)
        return 0 if state is None else state.passed

    def _run_block(
        self, call: CallState, block: BlockCall, hidden: Tensor, original: Callable[..., Any]
    ) -> Tensor:
        number = block.number
        state = self._state(call, number, hidden)
        site = state.sites.get(number)
        if site is not None and site.where == "before":
            hidden = self._reduce_at(call, state, site, hidden, None)
        state.entered = hidden if self._next_reads_entered(state, number) else None
        if self._is_plain(state, number):
            hidden = self._by_itself(state, block, hidden, original)
        else:
            hidden = self._halves(call, state, block, hidden)
        self.captured.keep_output(state, number, hidden)
        if number == self.last and self.captured.reads(number + 1):
            behind = block._replace(block=self.spec.blocks[number + 1], number=number + 1)
            with call.meter.stage("select"):
                self.captured.keep_attention_ahead(behind, state, hidden)
        state.previous, state.entered = state.entered, None
        hidden = self._finish(call, state, hidden) if number == self.last else hidden
        if number + 1 in self.around.levels:
            state.leave(number + 1)
        return hidden

    def _state(self, call: CallState, number: int, hidden: Tensor) -> EncoderState:
        begun = call.state(EncoderState)
        if number:
            if begun is None or begun.passed != number:
                self._require(self._entered_blocks(call), number)
            assert begun is not None
            begun.passed = number + 1
            if begun.size.device != hidden.device:
                begun.move(hidden.device)
            return begun
        state = self._first_state(call, hidden)
        for stage in self.later:
            learned = stage.strategy.companions()
            if learned is not None:
                learned = learned.to(device=hidden.device, dtype=hidden.dtype)
                state.companions[stage.number] = learned.expand(hidden.shape[0], -1, -1)
        self._count(call, state, "patches")
        state.passed = 1
        call.put(state)
        return state

    def _first_state(self, call: CallState, hidden: Tensor) -> EncoderState:
        """State at the first block, whose input is `hidden` `[B, P + N, D]`."""
        around, prefix, device = self.around, self.spec.prefix, hidden.device
        side = around.side(call)
        batch, count = hidden.shape[0], (hidden.shape[1] - prefix) // side**2
        self._solve(call, [count])
        sites, videos = self.layout.sites(count), around.videos(call, batch, count)
        trace = Trace() if around.pieces else call.trace
        members, grid = None, call.grid
        if side > 1:
            grid, rows = squares(grid, side, device)
            members, count = Members(rows), len(rows)
        places = torch.arange(count, device=device).expand(batch, count)
        ones = torch.ones(batch, prefix + count, device=device)
        size = ones[:, prefix:]
        return EncoderState(
            sites=sites,
            grid=grid,
            images=trace.begin(batch, grid) if videos is None else videos.begin(trace, grid),
            prefix=prefix,
            size=size,
            index=places,
            seed=index(self.owner.plan.seed),  # no symbol
            videos=videos,
            first=places,
            trace=trace,
            members=members,
            sized=None if members is not None else (size, prefix, ones),
        )

    def _by_itself(
        self,
        state: EncoderState,
        block: BlockCall,
        hidden: Tensor,
        original: Callable[..., Any],
    ) -> Tensor:
        """A block by its own forward; signals beside it, where that is the only way."""
        args, kwargs = block.args, block.kwargs
        if not state.untouched:
            args, kwargs = block.arguments(state.rows(state.index))
        if self.adapter.whole_blocks and self.captured.reads(block.number):
            parts = project(block, state, hidden)
            self.captured.keep_attention(block, state, hidden, parts)
        return self.adapter.run(original, hidden, args, kwargs)

    def _halves(
        self, call: CallState, state: EncoderState, block: BlockCall, hidden: Tensor
    ) -> Tensor:
        site = state.sites.get(block.number)
        inside = site if site is not None and site.where == "inside" else None
        parts, signals = project(block, state, hidden), None
        if inside is not None and inside.signals and not inside.sums:
            # in front of the attention, as long as the keys are in the cache
            with call.meter.stage("select"):
                signals = self.captured.at_site(inside, state, parts)
        sums, gives = (False, False) if inside is None else (inside.sums, inside.gives)
        joined, parts = attend(block, state, hidden, parts, sums=sums, gives=gives)
        if state.companions:
            advance_companions(block, state, parts)
        if self.captured.reads(block.number):
            with call.meter.stage("select"):
                self.captured.keep_attention(block, state, hidden, parts)
        if inside is not None:
            joined = self._reduce_at(call, state, inside, joined, parts, signals)
        return block.feed_forward(joined)

    def _reduce_at(
        self,
        call: CallState,
        state: EncoderState,
        site: EncoderSite,
        hidden: Tensor,
        parts: Projected | None,
        signals: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Let the strategy at a site act, on signals of the parts if there are none yet."""
        with call.meter.stage("select"):
            if signals is None:
                signals = self.captured.at_site(site, state, parts)
            return self._reduce(call, state, site, hidden, signals)
