"""Run an encoder's blocks as attend -> reduce -> feed_forward where a plan asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.call import CallState, calling, current
from tokenprune.engine.checks import refuse_checkpointing
from tokenprune.engine.encoder.across_frames import reduce_across
from tokenprune.engine.encoder.attention import (
    Attended,
    BlockCall,
    advance_companions,
    attend,
)
from tokenprune.engine.encoder.signals import BlockSignals
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.patching import Patches
from tokenprune.engine.stages import EncoderSchedule, EncoderSite, ResolvedStage
from tokenprune.engine.videos import Videos
from tokenprune.interface.adapter import EncoderAdapter, EncoderSpec
from tokenprune.interface.signals import BlockBefore
from tokenprune.interface.strategy import placement

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
        # only a prompt says which images are frames of one video, and the LLM's wing reads it
        self.videos: Callable[[CallState, int, int], Videos | None] = _no_videos
        self.captured = BlockSignals(later, spec)

    def install(self, patches: Patches) -> None:
        """Override the forward of this instance's entry and used blocks."""
        patches.override(self.spec.entry, "forward", self._enter)
        for number in range(self.spec.used):
            patches.override(self.spec.blocks[number], "forward", self._forward_of(number))
        for (module, name), function in self.adapter.overrides().items():
            patches.override(module, name, function)

    def _enter(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        refuse_checkpointing(self.spec.entry, "blocks", "encoder")
        with calling(self.owner) as call, call.meter.stage("encode"):
            call.drop(EncoderState)
            call.grid = self.adapter.call_grid(args, kwargs)
            return original(*args, **kwargs)

    def _forward_of(self, number: int) -> Callable[..., Any]:
        block = self.spec.blocks[number]

        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            if call is None:  # the block was called on its own, outside of its encoder
                return original(hidden, *args, **kwargs)
            state = self._state(call, number, hidden)
            hidden = self._reduce_at(call, state, number, "before", hidden, None)
            state.entered = hidden if self._wants_previous(state, number + 1) else None
            given = BlockCall(self.adapter, block, args, kwargs)
            if self._is_plain(state, number):
                rest = (args, kwargs) if state.untouched else given.arguments(state.index)
                hidden = original(hidden, *rest[0], **rest[1])
            else:
                hidden = self._halves(call, state, number, given, hidden)
            self.captured.keep_output(state, number, hidden)
            state.previous, state.entered = state.entered, None
            return self._finish(call, state, hidden) if number == self.last else hidden

        return forward

    def _state(self, call: CallState, number: int, hidden: Tensor) -> EncoderState:
        if number:
            begun = call.state(EncoderState)
            assert begun is not None
            return begun
        count = hidden.shape[1] - self.spec.prefix
        state = EncoderState.begin(
            self.layout.sites(count),
            call.grid,
            hidden,
            self.spec.prefix,
            call.trace,
            self.owner.plan.seed,
            self.videos(call, hidden.shape[0], count),
        )
        for stage in self.later:
            learned = stage.strategy.companions()
            if learned is not None:
                learned = learned.to(device=hidden.device, dtype=hidden.dtype)
                state.companions[stage.number] = learned.expand(hidden.shape[0], -1, -1)
        call.meter.count("patches", count * hidden.shape[0], hidden.shape[0])
        call.put(state)
        return state

    def _is_plain(self, state: EncoderState, number: int) -> bool:
        site = state.sites.get(number)
        if site is not None and placement(site.stage.strategy, "encoder").where == "inside":
            return False
        if state.proportional or state.companions or _revived(state, number):
            return False
        return not self.captured.reads(number)

    def _halves(
        self, call: CallState, state: EncoderState, number: int, block: BlockCall, hidden: Tensor
    ) -> Tensor:
        step = attend(block, state, hidden, number)
        if state.companions:
            advance_companions(block, state, step)
        if self.captured.reads(number):
            with call.meter.stage("select"):
                self.captured.keep_attention(block, state, number, hidden, step)
        hidden = self._reduce_at(call, state, number, "inside", step.hidden, step)
        return block.feed_forward(hidden)

    def _reduce_at(
        self,
        call: CallState,
        state: EncoderState,
        number: int,
        where: str,
        hidden: Tensor,
        step: Attended | None,
    ) -> Tensor:
        site = state.sites.get(number)
        if site is None or placement(site.stage.strategy, "encoder").where != where:
            return hidden
        with call.meter.stage("select"):
            signals = self.captured.at_site(site.stage, site.site, state, step)
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
        tokens = state.tokens(hidden, site.site, signals)
        (part,) = ask(site.stage, tokens, tokens.count - site.remove, call.conditions)
        if part.dense is not None:
            state.proportional = state.proportional or strategy.proportional()
            if part.reconstruction is not None:
                state.revival = state.revivable(site, part.dense, part.reconstruction, part.riders)
        hidden = state.apply(tokens, part, hidden)
        if part.dense is not None:
            state.record(call.trace, site.site, strategy.name, part.dense.slot, part.score)
        return hidden

    def _wants_previous(self, state: EncoderState, number: int) -> bool:
        site = state.sites.get(number)
        return site is not None and any(
            signal.reads(BlockBefore) for signal in site.stage.strategy.signals(site.site)
        )

    def _finish(self, call: CallState, state: EncoderState, hidden: Tensor) -> Tensor:
        batch, revival = hidden.shape[0], state.revival
        if state.sites:
            inside = hidden.shape[1] - state.prefix
            call.meter.count("encoder_inside", inside * batch, batch)
        if revival is not None and revival.reconstruction.restore:
            with call.meter.stage("select"):
                hidden = revival.full(hidden, state.prefix)
            state.size, state.index, state.revival = revival.size, revival.index, None
            state.riders, state.signals = revival.riders, revival.signals
            state.record(call.trace, revival.site, revival.strategy, None)
        call.meter.count("encoder", (hidden.shape[1] - state.prefix) * batch, batch)
        if state.sites:
            ones = state.size.new_ones(batch, state.prefix)
            self.adapter.weighted_pool(torch.cat((ones, state.size), dim=1))
        return hidden


def _no_videos(call: CallState, images: int, patches: int) -> Videos | None:
    return None


def _revived(state: EncoderState, number: int) -> bool:
    return state.revival is not None and number < state.revival.until
