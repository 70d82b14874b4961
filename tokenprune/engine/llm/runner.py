"""Run the LLM over a shortened sequence and hand back states of the prompt's own length.

What its layers are called with meanwhile is said in `layer_runner`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from torch import Tensor

from tokenprune.engine.call import CallState, current
from tokenprune.engine.llm.attending import layers_read, untold
from tokenprune.engine.llm.calls import continuation, shortened
from tokenprune.engine.llm.earlier_turns import EarlierTurns
from tokenprune.engine.llm.entry import Wanted, lay_out
from tokenprune.engine.llm.fixed import Step
from tokenprune.engine.llm.fixed_steps import FixedSteps
from tokenprune.engine.llm.flow import Behind, Flow, Mode
from tokenprune.engine.llm.layer_runner import LayerRunner, require_all
from tokenprune.engine.llm.layout import Layout, continued, trim_caches
from tokenprune.engine.llm.refusals import (
    BROKEN,
    check_counted,
    check_embedded,
    check_language,
    check_maskless,
    check_owner,
    check_padding,
    check_seen,
)
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.llm.turns import check_turn, in_front, joined, turn_call
from tokenprune.engine.patching import Patches
from tokenprune.engine.recomputing import refuse_repeated
from tokenprune.engine.tracers import may_compile
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import LlmCall, Rotary
from tokenprune.interface.specs import MllmSpec
from tokenprune.plan import numbering

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment

Run = Callable[[LlmCall], Any]
"""The LLM's own forward, called as said."""


class LanguageRunner:
    """Everything the engine does in the LLM.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
        spec: the model as data.
        stages: decoder stages, one for every layer at which they act, ascending.
    """

    def __init__(
        self,
        owner: Attachment,
        adapter: MllmAdapter,
        spec: MllmSpec,
        stages: Sequence[DecoderStage],
    ) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, spec
        self.stages = {stage.site.layer: stage for stage in stages}
        self.layers_read = layers_read(stages, adapter, spec)
        self.untold = untold(stages, adapter, spec)
        self.token = uuid4().hex
        self.numbering = numbering(owner.plan)
        self.wanted = Wanted(
            rows=bool(stages),
            text=any(stage.prunes_text for stage in stages),
            numbers=self.numbering.compact_entry or self.numbering.compact_layers,
        )
        trimming = [stage for stage in stages if stage.stage.strategy.trims_cache()]
        self.trim = max((stage.site.layer for stage in trimming), default=0)
        self.steps = FixedSteps(adapter, spec, self.numbering)
        self.layers = LayerRunner(owner, adapter, spec, self.stages, self.steps)

    def install(self, patches: Patches) -> None:
        """Override the LLM's forward and, if the plan prunes, its layers'."""
        patches.override(self.spec.language_model, "forward", self._forward)
        if self.owner.stages:
            self.layers.install(patches)

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = current(self.owner)
        if call is None:
            if self.owner.stages:
                refuse_repeated("the LLM", self.owner.model)
            return original(*args, **kwargs)
        step = call.state(Step)
        if step is not None:
            with call.meter.stage("decode"):
                return self.steps.run(original, step, args, kwargs)
        state = call.state(MllmState)
        if state is None or state.aside:
            return original(*args, **kwargs)
        given = self.adapter.read_llm(args, kwargs)
        past = self.adapter.cached_length(given.cache)
        turn = bool(past and state.pictures and not state.prefilled) and state.given.ids is not None
        later = state.prefilled or bool(past and not turn)
        state.prefilled = True

        def run(new: LlmCall) -> Any:
            if new is given and not self.spec.partial:
                return original(*args, **kwargs)
            put, named = self.adapter.write_llm(new, args, kwargs)
            return original(*put, **named)

        with call.meter.stage("decode" if later else "prefill"):
            if not self.owner.stages:
                return original(*args, **kwargs)
            check_embedded(self.spec, given)
            if turn:
                return self._turn(call, run, state, past, given)
            if past:
                return self._continue(run, state, past, given)
            return self._prompt(call, run, state, given)

    def _lay_out(self, call: CallState, state: MllmState, embeds: Tensor) -> Layout:
        """How a prompt, or a further turn of a chat, is shortened in front of the LLM."""
        with call.meter.stage("select"):
            return _laying_out()(
                state, self.spec, call.trace, self.token, embeds.device, self.wanted
            )

    def _in_cache(self, past: int, given: LlmCall) -> Layout | None:
        """How the sequence in a cache was shortened; None if nothing was removed."""
        layout: Layout | None = self.adapter.cache_mark(given.cache)
        if layout is None:
            return None
        check_owner(layout.owner, self.token, given.cache_name)
        if past < layout.entry.length:
            layout = layout.cropped(layout.entry.length - past)
            self.adapter.mark_cache(given.cache, layout)
        return layout

    def _turn(self, call: CallState, run: Run, state: MllmState, past: int, given: LlmCall) -> Any:
        """A further turn of a chat with pictures, behind the cache of earlier ones."""
        assert given.embeds is not None
        old, new = self._in_cache(past, given), self._lay_out(call, state, given.embeds)
        front = in_front(old, new, past, state.given.mask)
        check_turn(self.spec, given, front, new, inside=bool(self.stages))
        for layer in self.layers_read:
            self.adapter.cached_heads(given.cache, layer)
        if front.entry.padded or new.entry.padded:
            check_maskless(self.spec, self.adapter.maskless())
        self.layers.reader.follow()
        compact, axes = self.numbering.compact_entry, self.spec.per_token
        short = turn_call(front, new, given, compact=compact, axes=axes)
        short, added = self.layers.taken_over(short)
        flow = state.flow = self._flow(new, "first", 0)
        flow.added, keys = added, self._keys(given.cache) if self.spec.windows else ()
        flow.earlier = EarlierTurns(front, given.cache, keys)
        try:
            with self.adapter.heeding(given.cache):
                outputs = run(short)
            require_all(flow, len(self.spec.layers))
            self._count(call, state)
        except BaseException:
            if flow.layer >= 0:  # some layers' caches hold the turn, and the others don't
                self.adapter.mark_cache(given.cache, replace(front, owner=BROKEN))
            raise
        finally:
            state.passed()
        chat = joined(front, new, trim=self.trim, base=max(self.trim, self.spec.base))
        if chat.changes:
            trim_caches(chat, self.adapter, given.cache)
            self.adapter.mark_cache(given.cache, continued(chat))
        return self._spread(new, outputs)

    def _continue(self, run: Run, state: MllmState, past: int, given: LlmCall) -> Any:
        """New tokens of text behind a cache."""
        layout = self._in_cache(past, given)
        if layout is None:
            return run(given)
        assert given.embeds is not None
        whole = layout.lack + past + given.embeds.shape[1]
        mask = state.given.mask if self.spec.masks else given.mask
        check_language(self.spec, whole, mask)
        check_counted(self.spec, given)
        where = self.spec.names.mask
        compact = self.numbering.compact_entry
        new = continuation(layout, past, given, compact=compact, where=where)
        flow = state.flow = self._flow(layout, "continue", past)
        if self.spec.masks or self.spec.windows:
            tail = mask[:, layout.length :].bool() if isinstance(mask, Tensor) else None
            flow.behind = Behind(self._keys(given.cache), tail)
        try:
            with self.adapter.heeding(given.cache):
                outputs = run(new)
            require_all(flow, len(self.spec.layers))
            return outputs
        finally:
            state.flow = None

    def _prompt(self, call: CallState, run: Run, state: MllmState, given: LlmCall) -> Any:
        """The prompt, or without cache the prompt and what was generated so far."""
        assert given.embeds is not None
        embeds = given.embeds
        if given.cache is not None and self.adapter.cache_mark(given.cache) is not None:
            self.adapter.mark_cache(given.cache, None)  # emptied since
        mode: Mode = "first"
        # without cache, a longer prompt of the same call is the first one and generated text: what
        # was decided about the first one is repeated
        if state.layout is not None and embeds.shape[1] >= state.layout.length:
            mode, layout = "again", state.layout.longer(embeds.shape[1] - state.layout.length)
        elif state.given.ids is None:
            return run(given)
        elif not state.pictures:
            check_seen(self.spec, state.given)
            return run(given)
        else:
            check_language(self.spec, embeds.shape[1], state.given.mask)
            check_padding(self.spec, embeds.shape[1], state.given.mask)
            layout = self._lay_out(call, state, embeds)
            if layout.shortened and layout.entry.padded:
                check_maskless(self.spec, self.adapter.maskless())
            self.layers.reader.follow()
            layout.trim, state.layout = self.trim, layout
            layout.base = max(self.trim, self.spec.base)
        flow = state.flow = self._flow(layout, mode, 0)
        try:
            compact, axes = self.numbering.compact_entry, self.spec.per_token
            new = shortened(layout, given, compact=compact, flat=flow.flat, axes=axes)
            new, flow.added = self.layers.taken_over(new)
            outputs = run(new)
            require_all(flow, len(self.spec.layers))
            if mode == "first":
                self._count(call, state)
        finally:
            state.passed()
        if not layout.changes:
            return outputs
        # layers' caches hold what each layer saw; decoding finds out from the note
        # a given one is filled even where outputs have none, since none is wanted
        cache = self.adapter.outputs_cache(outputs) if given.cache is None else given.cache
        if cache is not None:
            trim_caches(layout, self.adapter, cache)
            self.adapter.mark_cache(cache, continued(layout))
        return self._spread(layout, outputs)

    def _flow(self, layout: Layout, mode: Mode, past: int) -> Flow:
        compact, flat = self.numbering.compact_layers, self.adapter.padding_masks()
        withheld = bool(self.spec.flat_layers) or not self.adapter.ignores_positions()
        withheld = withheld and not self.spec.placed
        return Flow(layout, mode, self.spec, compact, flat, self._rotary, withheld, past)

    def _keys(self, cache: Any) -> list[int]:
        return [self.adapter.cached_keys(cache, n) for n in range(len(self.spec.layers))]

    def _rotary(self, layer: int, hidden: Tensor, positions: Tensor) -> Rotary:
        return self.adapter.rotary(self.spec.layers[layer], hidden, positions)

    def _spread(self, layout: Layout, outputs: Any) -> Any:
        """Outputs with states at the places of the user's own prompt."""
        short = self.adapter.read_outputs(outputs)
        return self.adapter.write_outputs(layout.spread(short, len(self.spec.layers)), outputs)

    def _count(self, call: CallState, state: MllmState) -> None:
        """Measured visual tokens per image, averaged over the LLM's layers."""
        average = state.counted.average(len(self.spec.layers))
        call.meter.count("llm_average", average, state.counted.pictures)


def _laying_out() -> Callable[..., Layout]:
    """`lay_out`, or where a compiler may be tracing the same closed to it."""
    if may_compile():
        # imported here, because it takes the compiler along
        from tokenprune.engine.llm.uncompiled import lay_out_uncompiled

        return lay_out_uncompiled
    return lay_out
