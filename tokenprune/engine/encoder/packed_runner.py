"""Run the blocks of a packed encoder: whole units leave, and what its blocks are handed is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.call import CallState, current
from tokenprune.engine.encoder.attention import BlockCall
from tokenprune.engine.encoder.packed_signals import PackedSignals, PackedStep
from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.passes import EntryCall, in_pass
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.encoder.running_call import RUNNING
from tokenprune.engine.encoder.together import Decided, carry_out
from tokenprune.engine.lines import flat, stacked
from tokenprune.engine.patching import Patches
from tokenprune.engine.stages import EncoderSite
from tokenprune.interface.calls import Arguments, Written
from tokenprune.interface.packed import PackedEncoderAdapter, Packing
from tokenprune.interface.trace import Trace


class PackedRunner(EncoderRunner):
    """The runner of a packed encoder; arguments as of its base."""

    adapter: PackedEncoderAdapter
    captured: PackedSignals
    signals = PackedSignals

    def install(self, patches: Patches) -> None:
        """Override what runs this instance's entry, its used blocks and its exits."""
        super().install(patches)
        for module in self.spec.exits:
            patches.override(module, "forward", self._exit)

    def _hand_in(self, patches: Patches) -> None:
        # imported here, because it takes the compiler along
        from tokenprune.engine.uncompiled import uncompiled

        patches.hook_before(self.spec.entry, uncompiled(self._foresee))

    def _open(self, call: CallState, given: EntryCall) -> None:
        call.drop(PackedState)
        packing = self.adapter.packing(given.args, given.kwargs).grouped(self.around.side(call))
        frames = self.around.clips(call)
        call.put(packing if frames is None else packing.clips(frames))

    def _foresee(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Written | None:
        """The arguments of a call that is about to begin, with what its values decide.

        Also the call around it, and solved budgets: older compilers break a graph at a context
        variable, and look at no schedule.
        """
        if not self.owner.traffic.acts():
            return None
        args, known = self.adapter.foreseen(args, kwargs)
        running = current(self.owner)
        if (
            running is None and not self.around.alone
        ):  # the tower of a multimodal LLM, called by itself
            return args, dict(known)
        packing = self.adapter.packing(args, known)
        for _, height, width in packing.grouped(self.around.side(running)).grids:
            self.layout.sites(height * width)
        return args, {**known, RUNNING: running}

    def _given(self, call: CallState, kwargs: Arguments) -> Arguments:
        return self.adapter.inside(kwargs, graph=call.compiled)

    def _hand_on(self, call: CallState, output: Any) -> Any:
        """What the encoder gave, with rows for all units where it pools by itself."""
        state = call.state(PackedState)
        if state is None or state.raw:
            return output
        return self.adapter.handed_on(output, state.units)

    def _entered_blocks(self, call: CallState) -> int:
        state = call.state(PackedState)
        return 0 if state is None else state.passed

    def _run_block(
        self, call: CallState, block: BlockCall, hidden: Tensor, original: Callable[..., Any]
    ) -> Tensor:
        state = self._state(call, block.number, hidden)
        if state.raw and self._as_called(state, block.number):
            made = self._whole(call, state, block, hidden, original)
        else:
            rows = state.sequence(hidden) if state.raw else hidden
            state.raw = False
            made = self._rows(call, state, block, rows, original)
        for stack in state.stacks:
            stack.state.previous, stack.state.entered = stack.state.entered, None
        return self._leave(call, state, made) if block.number == self.last else made

    def _as_called(self, state: PackedState, number: int) -> bool:
        """Whether a block runs as the encoder calls it: nothing is to leave, or has left."""
        acts = any(number in stack.state.sites for stack in state.stacks)
        split = self.adapter.by_segments and self.captured.reads(number)
        return not (acts or split or state.graph)

    def _whole(
        self,
        call: CallState,
        state: PackedState,
        block: BlockCall,
        hidden: Tensor,
        original: Callable[..., Any],
    ) -> Tensor:
        """A block that runs as the encoder calls it; what it attends to is read beside it."""
        number = block.number
        self._note_entered(state, number, hidden)
        if self.captured.reads(number):
            with call.meter.stage("select"):
                none = [False] * len(state.stacks)
                step = PackedStep.of(self.adapter, block, state, state.sequence(hidden), none)
                self.captured.keep_packed(state, number, step)
        made: Tensor = original(hidden, *block.args, **block.kwargs)
        if self.captured.reads_output(number):
            self._note_output(state, number, state.sequence(made))
        return made

    def _rows(
        self,
        call: CallState,
        state: PackedState,
        block: BlockCall,
        hidden: Tensor,
        original: Callable[..., Any],
    ) -> Tensor:
        """A block on the rows `[R, D]` that are left."""
        number = block.number
        hidden = self._reduce_stacks(call, state, number, "before", hidden, None)
        self._note_entered(state, number, hidden)
        plain = all(self._is_plain(stack.state, number) for stack in state.stacks)
        # a block that splits its attention at borders reads them, which no graph can
        if not plain or state.turned or (state.graph and self.adapter.by_segments):
            hidden = self._halves(call, state, block, hidden)
        elif self.adapter.batched:
            calls = zip(state.cut_stacks(block), state.order.split(hidden), strict=True)
            parts = [original(part, *cut.args, **cut.kwargs) for cut, part in calls]
            hidden = torch.cat([part.flatten(0, 1) for part in parts])
        else:
            cut, outer = state.cut(block), state.shape[:-2]
            hidden = original(hidden.view(*outer, *hidden.shape), *cut.args, **cut.kwargs)
            hidden = hidden.flatten(0, len(outer))
        self._note_output(state, number, hidden)
        return hidden

    def _state(self, call: CallState, number: int, hidden: Tensor) -> PackedState:
        if number:
            self._require(self._entered_blocks(call), number)
            begun = call.state(PackedState)
            assert begun is not None
            begun.passed = number + 1
            if begun.stacks[0].state.size.device != hidden.device:
                begun.move(hidden.device)
            return begun
        packing = call.state(Packing)
        assert packing is not None
        counts = [height * width for _, height, width in packing.grids]
        if not all(self.layout.solved(count) for count in counts):
            self._solve(call, counts)
        state = PackedState.begin(
            packing,
            self.layout,
            Trace() if self.around.tiled(call) else call.trace,
            index(self.owner.plan.seed),  # no symbol
            hidden,
            batched=self.adapter.batched,
            graph=call.compiled,
            loops=all(map(self.adapter.loops, self.spec.blocks[: self.spec.used])),
        )
        for stack in state.stacks:
            self._count(call, stack.state, "patches")
        call.put(state)
        return state

    def _halves(
        self, call: CallState, state: PackedState, block: BlockCall, hidden: Tensor
    ) -> Tensor:
        number = block.number
        attending = [stack.state.revived(number) is not None for stack in state.stacks]
        step = PackedStep.of(self.adapter, block, state, hidden, attending)
        joined = block.join(hidden[None], step.attended(state.order))[0]
        if self.captured.reads(number):
            with call.meter.stage("select"):
                states = [stack.state for stack in state.stacks]
                wanted = [s.restoring is not None or s.revived(number) is not None for s in states]
                whole = step
                if wanted != attending:
                    whole = PackedStep.of(self.adapter, block, state, hidden, wanted)
                self.captured.keep_packed(state, number, whole)
        hidden = self._reduce_stacks(call, state, number, "inside", joined, step)
        return block.feed_forward(hidden[None])[0]

    def _reduce_stacks(
        self,
        call: CallState,
        state: PackedState,
        number: int,
        where: str,
        hidden: Tensor,
        step: PackedStep | None,
    ) -> Tensor:
        """Let the strategies at this block act on their stacks."""
        sites = [_acting(stack.state.sites.get(number), where) for stack in state.stacks]
        if not any(sites):
            return hidden
        with call.meter.stage("select"):
            units = state.order.units(hidden)
            parts = state.order.stacked(units)
            read: dict[int, list[dict[str, Tensor]]] = {}
            decided: dict[int, Decided] = {}
            for place, site in enumerate(sites):
                if site is None:
                    continue
                mine, stage = state.stacks[place].state, site.stage
                if step is not None and stage.number not in read:
                    read[stage.number] = step.read(site.signals)
                found = read[stage.number][place] if step is not None else {}
                signals = self.captured.at_stack(site, mine, found, number)
                if mine.videos is not None and stage.strategy.spans_frames():
                    parts[place] = self._reduce(call, mine, site, parts[place], signals)
                    continue
                tokens, part = self._decide(call, mine, site, parts[place], signals)
                decided[place] = Decided(mine, tokens, part)
            left = self._carry_out(decided, sites, parts, units)
            state.reorder()
            return state.order.by_row(left)

    def _carry_out(
        self,
        decided: Mapping[int, Decided],
        sites: Sequence[EncoderSite | None],
        parts: list[Tensor],
        units: Tensor,
    ) -> Tensor:
        """The units `[n, m * D]` that are left of all stacks, where some were decided about.

        Args:
            decided: by the number of the stack.
            sites: of every stack.
            parts: the units of every stack, `[B, N, m * D]`.
            units: the same one after the other, as they were.
        """
        if not decided:
            return flat(parts)
        if len(decided) < len(parts):
            units = flat([parts[place] for place in decided])
        left = carry_out(list(decided.values()), units)
        for place, one in decided.items():
            site, dense = sites[place], one.part.dense
            if site is not None and dense is not None:
                one.state.record(site.site, site.stage, dense.slot, one.part.score)
        if len(decided) == len(parts):
            return left
        shapes = [(len(one.state.index), one.state.index.shape[1]) for one in decided.values()]
        for place, own in zip(decided, stacked(left, shapes), strict=True):
            parts[place] = own
        return flat(parts)

    def _note_entered(self, state: PackedState, number: int, hidden: Tensor) -> None:
        """Keep what enters this block where the next one's strategy reads it."""
        wanted = [self._next_reads_entered(stack.state, number) for stack in state.stacks]
        parts: Sequence[Tensor | None] = [None] * len(wanted)
        if any(wanted):
            parts = state.order.unpack(state.sequence(hidden) if state.raw else hidden)
        for stack, part, want in zip(state.stacks, parts, wanted, strict=True):
            stack.state.entered = part if want else None

    def _note_output(self, state: PackedState, number: int, hidden: Tensor) -> None:
        """Capture what this block put out."""
        if self.captured.reads_output(number):
            parts = state.order.unpack(hidden)
            for stack, part in zip(state.stacks, parts, strict=True):
                self.captured.keep_output(stack.state, number, part)

    def _leave(self, call: CallState, state: PackedState, hidden: Tensor) -> Tensor:
        """Behind the last used block: count, and restore what is to be restored."""
        parts = state.order.unpack(state.sequence(hidden) if state.raw else hidden)
        again = any(stack.state.restoring is not None for stack in state.stacks)
        parts = [
            self._finish(call, stack.state, part)
            for stack, part in zip(state.stacks, parts, strict=True)
        ]
        if state.raw:
            return hidden
        if again:
            state.reorder()
            hidden = state.order.pack(parts)
        if self.adapter.raster:
            return state.whole(hidden, state.order)
        return state.ascending(hidden) if state.turned else hidden

    def _exit(self, original: Callable[..., Any], hidden: Tensor) -> Any:
        """A row for every unit of the call: of those that are left, and zeros."""
        call = current(self.owner)
        state = call.state(PackedState) if call is not None and in_pass(call) else None
        if call is None or state is None or state.untouched:
            return original(hidden)
        order = state.order
        wanted = [stack.state.restoring is not None for stack in state.stacks]
        if any(wanted):
            with call.meter.stage("select"):
                hidden, order = state.full(hidden, wanted)
        made = original(hidden)
        whole = made.new_zeros(state.packing.units, *made.shape[1:])
        return whole.index_copy(0, order.place, made)


def _acting(site: EncoderSite | None, where: str) -> EncoderSite | None:
    """The site, if its strategy acts at this place of the block."""
    return site if site is not None and site.where == where else None
