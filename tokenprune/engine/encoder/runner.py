"""Run an encoder's blocks as attend -> reduce -> feed_forward where a plan asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.call import CallState, calling, compiled, current
from tokenprune.engine.encoder.across_frames import reduce_across
from tokenprune.engine.encoder.around import refuse_inside
from tokenprune.engine.encoder.attention import (
    BlockCall,
    Projected,
    advance_companions,
    attend,
    project,
)
from tokenprune.engine.encoder.graphs import RUNNING, hand_in_running_call
from tokenprune.engine.encoder.passes import Pass, demand, in_pass, sound
from tokenprune.engine.encoder.recording import Recording
from tokenprune.engine.encoder.revival import revived
from tokenprune.engine.encoder.signals import BlockSignals
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.patching import Override, Patches
from tokenprune.engine.recomputing import refuse_around
from tokenprune.engine.stages import EncoderSchedule, EncoderSite, ResolvedStage
from tokenprune.engine.tracers import refuse_symbols
from tokenprune.engine.videos import Videos, no_videos
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.dense import Part
from tokenprune.interface.specs import EncoderSpec
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trace import Trace

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


class EncoderRunner:
    """Everything the engine does inside one vision encoder.

    Args:
        owner: the attachment it belongs to.
        adapter: the encoder's family.
        spec: the encoder as data, `used` set to what is read.
        layout: where the plan's encoder stages act.
        later: pre-LLM stages, which may read signals of any used block.
    """

    def __init__(
        self,
        owner: Attachment,
        adapter: EncoderAdapter,
        spec: EncoderSpec,
        layout: EncoderSchedule,
        later: Sequence[ResolvedStage],
    ) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, spec
        self.layout, self.later = layout, later
        self.last = spec.used - 1
        self.alone = False  # whether the plan was attached to the encoder itself
        # only a prompt says which images are frames of one video, and the LLM's wing reads it
        self.videos: Callable[[CallState, int, int], Videos | None] = no_videos
        # a multimodal LLM may see pictures in pieces, which are traced as whole pictures, read the
        # states of further depths, and make one token of a square of patches
        self.pieces, self.levels = False, frozenset[int]()
        self.side: Callable[[CallState], int] = _one
        self.captured = BlockSignals(later, spec)
        learned = any(stage.strategy.companions() is not None for stage in later)
        self.splits = bool(layout.stages) or self.captured.attention or learned
        self.recording = Recording(self)

    def install(self, patches: Patches) -> None:
        """Override what runs this instance's entry, and the forward of its used blocks."""
        self.owner.recordings.append(self.recording)
        for name in self.spec.passes:
            patches.override(self.spec.entry, name, self._enter)
        if self.layout.stages or self.captured.asks:
            for name, instead in self.spec.refused.items():
                patches.override(self.spec.entry, name, partial(self._refuse, name, instead))
        for number in range(self.spec.used):
            patches.override(self.spec.blocks[number], "forward", self._forward_of(number))
        for (module, name), function in self.adapter.overrides().items():
            patches.override(module, name, function)
        self._hand_in(patches)

    def _hand_in(self, patches: Patches) -> None:
        """Have what a graph of the tower can't look up handed to its entry."""
        if not self.alone:
            hand_in_running_call(patches, self.owner, self.spec.caller or self.spec.entry)

    def _enter(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if RUNNING in kwargs:
            running = kwargs.pop(RUNNING)
            if torch.compiler.is_dynamo_compiling():
                with compiled(self.owner, running):
                    return self._begin(original, args, kwargs)
        return self._begin(original, args, kwargs)

    def _begin(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        running = current(self.owner, tower=True)
        if running is not None and in_pass(running):
            return original(*args, **kwargs)  # one pass method calls another
        refuse_around(self.spec.entry, "encoder")
        if not torch.compiler.is_dynamo_compiling():  # it hands neither, and guards what it reads
            refuse_symbols((*args, *kwargs.values()))
            if self.layout.stages and (self.alone or running is None):
                refuse_inside(self.spec.entry, None if self.alone else self.owner.model)
        self._refuse_maps(args, kwargs)
        with calling(self.owner, tower=True) as call, call.meter.stage("encode"):
            return self.recording(call, original, args, kwargs)

    def passing(
        self,
        call: CallState,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """A pass through the encoder inside of a call that is running."""
        self._open(call, args, kwargs)
        call.put(demand(call, self.adapter, type(self.spec.entry).__name__, args, kwargs))
        try:
            output = original(*args, **self._given(call, kwargs))
        finally:
            call.drop(Pass)
        self._require(self._passed(call), self.spec.used)
        return self._hand_on(call, output)

    def _given(self, call: CallState, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments by name that the encoder itself is given."""
        return kwargs

    def _hand_on(self, call: CallState, output: Any) -> Any:
        """What a pass gives to who called the encoder."""
        return output

    def _open(self, call: CallState, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Begin a pass: forget the former one, and read what the pictures are."""
        call.drop(EncoderState)
        call.grid = self.adapter.call_grid(args, kwargs)

    def _passed(self, call: CallState) -> int:
        """How many blocks of the running pass were entered."""
        state = call.state(EncoderState)
        return 0 if state is None else state.passed

    def _refuse(self, name: str, instead: str, original: Override, *_: Any, **__: Any) -> NoReturn:
        fault = "has no place for the tokens that the plan removes"
        if not self.layout.stages:
            fault = "runs past what the plan reads of the encoder"
        raise UnsupportedCallError(
            f"'{name}' {fault}.",
            where=type(self.spec.entry).__name__,
            remedy=f"Call {instead}, or detach the plan for this call.",
        )

    def _refuse_maps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        name = self.adapter.attention_maps(args, kwargs) if self.splits else None
        if name is not None:
            raise UnsupportedCallError(
                f"{name}: blocks that a plan acts in give no attention maps, and those of the "
                "others are of fewer tokens.",
                where=type(self.spec.entry).__name__,
                remedy=f"Call without {name}, or detach the plan for this call.",
            )

    def _require(self, passed: int, number: int) -> None:
        """Refuse a pass in which a used block in front of block `number` was left out."""
        if passed != number and (self.layout.stages or self.later):
            raise UnsupportedCallError(
                f"block {passed} was replaced or left out since the plan was attached.",
                where=type(self.spec.entry).__name__,
                remedy="Detach the plan and attach it again to the model as it is now.",
            )

    def _forward_of(self, number: int) -> Callable[..., Any]:
        block = self.spec.blocks[number]

        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            if call is None:
                self._refuse_alone(number)
                return original(hidden, *args, **kwargs)
            state = self._state(call, number, hidden)
            site = state.sites.get(number)
            if site is not None and site.where == "before":
                hidden = self._reduce_at(call, state, site, hidden, None)
            state.entered = hidden if self._wants_previous(state, number + 1) else None
            given = BlockCall(self.adapter, block, number, args, kwargs)
            if self._is_plain(state, number):
                hidden = self._by_itself(state, given, hidden, original)
            else:
                hidden = self._halves(call, state, given, hidden)
            self.captured.keep_output(state, number, hidden)
            if number == self.last and self.captured.reads(number + 1):
                behind = given._replace(block=self.spec.blocks[number + 1], number=number + 1)
                with call.meter.stage("select"):
                    self.captured.keep_attention_ahead(behind, state, hidden)
            state.previous, state.entered = state.entered, None
            hidden = self._finish(call, state, hidden) if number == self.last else hidden
            if number + 1 in self.levels:
                state.leave(number + 1)
            return hidden

        return forward

    def _refuse_alone(self, number: int) -> None:
        if self.layout.stages:
            raise UnsupportedCallError(
                f"block {number} was called outside of its encoder, where no plan can act.",
                where=type(self.spec.entry).__name__,
                remedy="Call the encoder, or detach the plan for this call.",
            )

    def _state(self, call: CallState, number: int, hidden: Tensor) -> EncoderState:
        begun = call.state(EncoderState)
        if number:
            if begun is None or begun.passed != number:
                self._require(self._passed(call), number)
            assert begun is not None
            begun.passed = number + 1
            if begun.size.device != hidden.device:
                begun.move(hidden.device)
            return begun
        side = self.side(call)
        count = (hidden.shape[1] - self.spec.prefix) // side**2
        self._solve(call, [count])
        state = EncoderState.begin(
            self.layout.sites(count),
            call.grid,
            hidden,
            self.spec.prefix,
            Trace() if self.pieces else call.trace,
            index(self.owner.plan.seed),  # no symbol
            self.videos(call, hidden.shape[0], count),
            side,
        )
        for stage in self.later:
            learned = stage.strategy.companions()
            if learned is not None:
                learned = learned.to(device=hidden.device, dtype=hidden.dtype)
                state.companions[stage.number] = learned.expand(hidden.shape[0], -1, -1)
        self._count(call, state, "patches")
        state.passed = 1
        call.put(state)
        return state

    def _solve(self, call: CallState, counts: Sequence[int]) -> None:
        """Have budgets for images of so many patches or units ready in front of a graph."""
        if call.compiled:
            # imported here, because it takes the compiler along
            from tokenprune.engine.uncompiled import solve

            # no symbols
            solve(index(self.layout.number), tuple([index(count) for count in counts]))

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

    def _is_plain(self, state: EncoderState, number: int) -> bool:
        if self.adapter.whole_blocks:
            return not state.sites and not state.companions
        site = state.sites.get(number)
        if site is not None and site.where == "inside":
            return False
        if state.proportional or state.companions or revived(state.revival, number):
            return False
        return not self.captured.reads(number)

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

    def _reduce(
        self,
        call: CallState,
        state: EncoderState,
        site: EncoderSite,
        hidden: Tensor,
        signals: Mapping[str, Tensor],
    ) -> Tensor:
        strategy = site.stage.strategy
        if state.videos is not None and strategy.spans_frames():
            hidden = reduce_across(call, state, site, hidden, signals)
            state.proportional = state.proportional or strategy.proportional()
            return hidden
        tokens, part = self._decide(call, state, site, hidden, signals)
        hidden = state.apply(tokens, part, hidden)
        if part.dense is not None:
            state.record(site.site, strategy.name, part.dense.slot, part.score)
        return hidden

    def _decide(
        self,
        call: CallState,
        state: EncoderState,
        site: EncoderSite,
        hidden: Tensor,
        signals: Mapping[str, Tensor],
    ) -> tuple[Tokens, Part]:
        """Ask the strategy at a site what becomes of which tokens."""
        strategy = site.stage.strategy
        tokens = state.tokens(hidden, site.site, signals)
        (part,) = ask(site.stage, tokens, tokens.count - site.remove, call.conditions)
        if part.dense is not None:
            state.proportional = state.proportional or strategy.proportional()
            if part.reconstruction is not None:
                state.revival = state.revivable(site, part.dense, part.reconstruction, part.riders)
        return tokens, part

    def _wants_previous(self, state: EncoderState, number: int) -> bool:
        site = state.sites.get(number)
        return site is not None and site.before

    def _finish(self, call: CallState, state: EncoderState, hidden: Tensor) -> Tensor:
        revival = state.revival
        if state.sites:
            self._count(call, state, "encoder_inside")
        if revival is not None and revival.reconstruction.restore:
            with call.meter.stage("select"):
                hidden = state.restore(hidden)
        self._count(call, state, "encoder")
        if state.sites:
            self.adapter.weighted_pool(state.row_sizes)
        return sound(call, hidden)

    def _count(self, call: CallState, state: EncoderState, name: str) -> None:
        """Tell the meter how many tokens there are, and of how many images if that is known."""
        call.count(name, state.index.numel(), 0 if self.pieces else state.index.shape[0])
        if self.pieces:
            state.counted.append(name)


def _one(call: CallState) -> int:
    return 1
