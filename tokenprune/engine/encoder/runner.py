"""Passes through a vision encoder, and what a strategy decides at a site inside of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.call import CallState, calling, compiled, current
from tokenprune.engine.encoder.across_frames import reduce_across
from tokenprune.engine.encoder.attention import BlockCall
from tokenprune.engine.encoder.callers import refuse_inside
from tokenprune.engine.encoder.passes import EntryCall, Pass, demand, in_pass, sound
from tokenprune.engine.encoder.recording import Recording
from tokenprune.engine.encoder.running_call import RUNNING, hand_in_running_call
from tokenprune.engine.encoder.signals import BlockSignals
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.encoder.surroundings import Surroundings
from tokenprune.engine.patching import Override, Patches
from tokenprune.engine.recomputing import refuse_around
from tokenprune.engine.stages import EncoderSchedule, EncoderSite, ResolvedStage
from tokenprune.engine.tracers import refuse_symbols
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.calls import Arguments
from tokenprune.interface.dense import Part
from tokenprune.interface.specs import EncoderSpec
from tokenprune.interface.tokens import Tokens

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


class EncoderRunner(ABC):
    """Everything the engine does inside one vision encoder; subclasses say how blocks run.

    Args:
        owner: the attachment it belongs to.
        adapter: the encoder's family.
        spec: the encoder as data, `used` set to what is read.
        layout: where the plan's encoder stages act.
        later: pre-LLM stages, which may read signals of any used block.
        around: what the model around the encoder knows of its passes.

    Class attributes:
        signals: what captures signals of its blocks.
    """

    signals: ClassVar[type[BlockSignals]] = BlockSignals

    def __init__(
        self,
        owner: Attachment,
        adapter: EncoderAdapter,
        spec: EncoderSpec,
        layout: EncoderSchedule,
        later: Sequence[ResolvedStage],
        around: Surroundings,
    ) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, spec
        self.layout, self.later, self.around = layout, later, around
        self.last = spec.used - 1
        self.captured = self.signals(later, spec)
        learned = any(stage.strategy.companions() is not None for stage in later)
        self.splits = bool(layout.stages) or self.captured.attention or learned
        stages = (*layout.stages, *later)
        self.recording = Recording(owner, adapter, spec, stages, around.side, self._pass)

    def install(self, patches: Patches) -> None:
        """Override what runs this instance's entry, and the forward of its used blocks."""
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
        if not self.around.alone:
            hand_in_running_call(patches, self.owner, self.spec.caller or self.spec.entry)

    def _enter(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        handed, running = RUNNING in kwargs, kwargs.pop(RUNNING, None)
        given = EntryCall(original, args, kwargs)
        if handed and torch.compiler.is_dynamo_compiling():
            with compiled(self.owner, running):
                return self._begin(given)
        return self._begin(given)

    def _begin(self, given: EntryCall) -> Any:
        original, args, kwargs = given
        running, nested = current(self.owner, tower=True), False
        if running is not None and in_pass(running):
            if not self._entered_blocks(running):
                return original(*args, **kwargs)  # one pass method calls another
            nested = True  # a hook of somebody's on a block
        refuse_around(self.spec.entry, "encoder")
        if not torch.compiler.is_dynamo_compiling():  # it hands neither, and guards what it reads
            refuse_symbols((*args, *kwargs.values()))
            alone = self.around.alone
            if self.layout.stages and (alone or running is None):
                refuse_inside(self.spec.entry, None if alone else self.owner.model)
        self._refuse_maps(args, kwargs)
        with calling(self.owner, apart=nested, tower=True) as call, call.meter.stage("encode"):
            return self.recording.run(call, given)

    def _pass(self, call: CallState, given: EntryCall) -> Any:
        """A pass through the encoder inside of a call that is running."""
        if not call.compiled:  # a graph would guard every weight for it
            self.owner.heads.require(self.owner.model)
        self._open(call, given)
        call.put(demand(call, self.adapter, type(self.spec.entry).__name__, given))
        try:
            output = given.original(*given.args, **self._given(call, given.kwargs))
        finally:
            call.drop(Pass)
        self._require(self._entered_blocks(call), self.spec.used)
        return self._hand_on(call, output)

    def _given(self, call: CallState, kwargs: Arguments) -> Arguments:
        """The arguments by name that the encoder itself is given."""
        return kwargs

    def _hand_on(self, call: CallState, output: Any) -> Any:
        """What a pass gives to who called the encoder."""
        return output

    @abstractmethod
    def _open(self, call: CallState, given: EntryCall) -> None:
        """Begin a pass: forget the former one, and read what the pictures are."""

    @abstractmethod
    def _entered_blocks(self, call: CallState) -> int:
        """How many blocks of the running pass were entered."""

    def _forward_of(self, number: int) -> Callable[..., Any]:
        block = self.spec.blocks[number]

        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            if call is None:
                self._refuse_alone(number)
                return original(hidden, *args, **kwargs)
            given = BlockCall(self.adapter, block, number, args, kwargs)
            return self._run_block(call, given, hidden, original)

        return forward

    @abstractmethod
    def _run_block(
        self, call: CallState, block: BlockCall, hidden: Tensor, original: Callable[..., Any]
    ) -> Tensor:
        """One block.

        Args:
            call: the running call.
            block: the block and what it was called with.
            hidden: what enters it.
            original: its own forward.
        """

    def _refuse(self, name: str, instead: str, original: Override, *_: Any, **__: Any) -> NoReturn:
        fault = "has no place for the tokens that the plan removes"
        if not self.layout.stages:
            fault = "runs past what the plan reads of the encoder"
        raise UnsupportedCallError(
            f"'{name}' {fault}.",
            where=type(self.spec.entry).__name__,
            remedy=f"Call {instead}, or detach the plan for this call.",
        )

    def _refuse_maps(self, args: tuple[Any, ...], kwargs: Arguments) -> None:
        name = self.adapter.attention_maps(args, kwargs) if self.splits else None
        if name is not None:
            raise UnsupportedCallError(
                f"{name}: blocks that a plan acts in give no attention maps, and those of the "
                "others are of fewer tokens.",
                where=type(self.spec.entry).__name__,
                remedy=f"Call without {name}, or detach the plan for this call.",
            )

    def _require(self, entered: int, number: int) -> None:
        """Refuse a pass in which a used block in front of block `number` was left out."""
        if entered != number and (self.layout.stages or self.later):
            raise UnsupportedCallError(
                f"block {entered} was replaced or left out since the plan was attached.",
                where=type(self.spec.entry).__name__,
                remedy="Detach the plan and attach it again to the model as it is now.",
            )

    def _refuse_alone(self, number: int) -> None:
        if self.layout.stages:
            raise UnsupportedCallError(
                f"block {number} was called outside of its encoder, where no plan can act.",
                where=type(self.spec.entry).__name__,
                remedy="Call the encoder, or detach the plan for this call.",
            )

    def _solve(self, call: CallState, counts: Sequence[int]) -> None:
        """Have budgets for images of so many patches or units ready in front of a graph."""
        if call.compiled:
            # imported here, because it takes the compiler along
            from tokenprune.engine.uncompiled import solve

            # no symbols
            solve(index(self.layout.number), tuple([index(count) for count in counts]))

    def _is_plain(self, state: EncoderState, number: int) -> bool:
        if self.adapter.whole_blocks:
            return not state.sites and not state.companions
        site = state.sites.get(number)
        if site is not None and site.where == "inside":
            return False
        if state.proportional or state.companions or state.revived(number):
            return False
        return not self.captured.reads(number)

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
            state.record(site.site, site.stage, part.dense.slot, part.score)
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

    def _next_reads_entered(self, state: EncoderState, number: int) -> bool:
        """Whether a strategy at the block behind this one reads what enters this one."""
        site = state.sites.get(number + 1)
        return site is not None and site.before

    def _finish(self, call: CallState, state: EncoderState, hidden: Tensor) -> Tensor:
        if self.layout.stages:  # also of images that are too small to lose a token
            self._count(call, state, "encoder_inside")
        if state.restoring is not None:
            with call.meter.stage("select"):
                hidden = state.restore(hidden)
        self._count(call, state, "encoder")
        if state.sites:
            self.adapter.weighted_pool(state.row_sizes)
        return sound(call, hidden)

    def _count(self, call: CallState, state: EncoderState, name: str) -> None:
        """Tell the meter how many tokens there are, and of how many images if that is known."""
        whole = state.trace is call.trace
        call.count(name, state.index.numel(), state.index.shape[0] if whole else 0)
        if not whole:
            state.counted.append(name)
