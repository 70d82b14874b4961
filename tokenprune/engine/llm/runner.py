"""Run the LLM over a shortened sequence and hand back states of the prompt's own length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from torch import Tensor
from torch.compiler import is_compiling

from tokenprune.engine.call import CallState, current
from tokenprune.engine.llm.calls import Behind, Flow, Mode, continuation, shortened
from tokenprune.engine.llm.cut import cut, waiting
from tokenprune.engine.llm.entry import Wanted, lay_out
from tokenprune.engine.llm.fixed import Step, layer_call, llm_call
from tokenprune.engine.llm.layout import Layout, continued, trim_caches
from tokenprune.engine.llm.level import new_slots
from tokenprune.engine.llm.refusals import (
    check_counted,
    check_embedded,
    check_language,
    check_maskless,
    check_padding,
    check_seen,
)
from tokenprune.engine.llm.signals import SignalReader
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.llm.turns import check_turn, joined, turn_call
from tokenprune.engine.patching import Patches
from tokenprune.engine.recomputing import refuse_repeated
from tokenprune.engine.tracers import may_compile
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import Arguments, LayerCall, LlmCall, Rotary
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
        self.token = uuid4().hex
        self.numbering = numbering(owner.plan)
        self.wanted = Wanted(
            rows=bool(stages),
            text=any(stage.prunes_text for stage in stages),
            numbers=self.numbering.compact_entry or self.numbering.compact_layers,
        )
        trimming = [stage for stage in stages if stage.stage.strategy.trims_cache()]
        self.trim = max((stage.site.layer for stage in trimming), default=0)
        self.reader = SignalReader(owner, adapter, spec)

    def install(self, patches: Patches) -> None:
        """Override the LLM's forward and, if the plan prunes, its layers'."""
        patches.override(self.spec.language_model, "forward", self._forward)
        if not self.owner.stages:
            return
        for number, layer in enumerate(self.spec.layers):
            patches.override(layer, "forward", self._layer(number))
        for method in self.spec.injections:
            patches.override(self.spec.language_model, method, self._inject(method))
        self.reader.install(self.stages.values())

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = current(self.owner)
        step = None if call is None else call.state(Step)
        if call is not None and step is not None:
            with call.meter.stage("decode"):
                return self._step(original, step, args, kwargs)
        state = None if call is None else call.state(MllmState)
        if call is None and self.owner.stages:
            refuse_repeated("the LLM", self.owner.model)
        if call is None or state is None or state.aside:
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

    def _behind(self, past: int, given: LlmCall) -> Layout | None:
        """How the sequence in a cache was shortened; None if nothing was removed."""
        layout: Layout | None = self.adapter.cache_mark(given.cache)
        if layout is None:
            return None
        if layout.owner != self.token:
            raise UnsupportedCallError(
                "this KV cache was shortened by another plan.",
                where=given.cache_name,
                remedy="Start again without it.",
            )
        if past < layout.entry.length:
            layout = layout.cropped(layout.entry.length - past)
            self.adapter.mark_cache(given.cache, layout)
        return layout

    def _turn(self, call: CallState, run: Run, state: MllmState, past: int, given: LlmCall) -> Any:
        """A further turn of a chat with pictures, behind the cache of earlier ones."""
        assert given.embeds is not None
        old = self._behind(past, given)
        with call.meter.stage("select"):
            new = _laying_out()(
                state, self.spec, call.trace, self.token, given.embeds.device, self.wanted
            )
        chat = joined(old, new, past, state.given.mask, self.spec.base)
        check_turn(self.spec, given, chat, padded=new.entry.padded)
        if chat.entry.padded:
            check_maskless(self.spec, self.adapter.maskless())
        compact, axes = self.numbering.compact_entry, self.spec.per_token
        told = turn_call(chat, new, given, compact=compact, axes=axes)
        flow = state.flow = self._flow(chat, "continue", chat.entry.length - new.entry.length)
        if self.spec.windows:
            flow.behind = Behind(self._keys(given.cache), None)
        try:
            with self.adapter.heeding(given.cache):
                outputs = run(told)
            _require(flow, len(self.spec.layers))
            self._count(call, state)
        finally:
            state.passed()
        if chat.changes:
            self.adapter.mark_cache(self.adapter.outputs_cache(outputs), chat)
        return self._spread(new, outputs)

    def _continue(self, run: Run, state: MllmState, past: int, given: LlmCall) -> Any:
        """New tokens of text behind a cache."""
        layout = self._behind(past, given)
        if layout is None:
            return run(given)
        assert given.embeds is not None
        whole = layout.length + past - layout.entry.length + given.embeds.shape[1]
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
            _require(flow, len(self.spec.layers))
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
            with call.meter.stage("select"):
                layout = _laying_out()(
                    state, self.spec, call.trace, self.token, embeds.device, self.wanted
                )
            if layout.shortened and layout.entry.padded:
                check_maskless(self.spec, self.adapter.maskless())
            self.reader.follow()
            layout.trim, state.layout = self.trim, layout
            layout.base = max(self.trim, self.spec.base)
        flow = state.flow = self._flow(layout, mode, 0)
        try:
            compact, axes = self.numbering.compact_entry, self.spec.per_token
            new = shortened(layout, given, compact=compact, flat=flow.flat, axes=axes)
            outputs = run(new)
            _require(flow, len(self.spec.layers))
            if mode == "first":
                self._count(call, state)
        finally:
            state.passed()
        if not layout.changes:
            return outputs
        # layers' caches hold what each layer saw; decoding finds out from the note
        cache = self.adapter.outputs_cache(outputs)
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

    def _inject(self, method: str) -> Callable[..., Any]:
        """A method that adds rows of the LLM's input behind a layer, which may see fewer."""

        def inject(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            state = None if call is None else call.state(MllmState)
            flow = None if state is None else state.flow
            cut = None if flow is None else flow.layout.cut_before(flow.layer)
            if flow is not None and flow.mode != "continue" and cut is not None:
                columns = cut.level.column
                args, kwargs = self.adapter.narrow_injection(method, columns, args, kwargs)
            return original(*args, **kwargs)

        return inject

    def _rotary(self, layer: int, hidden: Tensor, positions: Tensor) -> Rotary:
        return self.adapter.rotary(self.spec.layers[layer], hidden, positions)

    def _spread(self, layout: Layout, outputs: Any) -> Any:
        """Outputs with states at the places of the user's own prompt."""
        short = self.adapter.read_outputs(outputs)
        return self.adapter.write_outputs(layout.spread(short, len(self.spec.layers)), outputs)

    def _layer(self, number: int) -> Callable[..., Any]:
        layer, adapter = self.spec.layers[number], self.adapter
        first_cut = min(self.stages, default=len(self.spec.layers))

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            step = None if call is None else call.state(Step)
            if step is not None:
                return self._layer_step(original, number, step, args, kwargs)
            state = None if call is None else call.state(MllmState)
            if call is None and (number >= first_cut or not adapter.ignores_positions()):
                refuse_repeated(f"layer {number}", self.spec.language_model)
            if call is None or state is None or state.flow is None:
                return original(*args, **kwargs)
            flow = state.flow
            _require(flow, number)
            flow.layer = number
            first, cuts = flow.mode == "first", flow.layout.cuts
            acts = first and (number in self.stages or self.reader.listens(number))
            if not acts and flow.untouched(number):
                return original(*args, **kwargs)
            # a compiler finds what is alike by itself, and renumbered rows may be of a layer's type
            here = flow.mode != "continue" and number in cuts
            shared = not (acts or here or flow.compact or is_compiling())
            if shared:
                known = flow.alike.arguments(flow.kind(number), args, kwargs)
                if known is not None:
                    return original(*known[0], **known[1])
            handed, given = (args, kwargs), adapter.read_layer(layer, args, kwargs)
            # decide, shorten the layer's input, then tell the layer what belongs to the rest of it
            if first and number in self.stages:
                with call.meter.stage("select"):
                    self._decide(call, state, flow, self.stages[number], given)
            new = given
            if number in cuts and flow.mode != "continue":
                new = replace(given, hidden=cuts[number].apply(given.hidden))
            new = flow.layer_call(number, new)
            if given.mask is None and new.mask is not None:
                check_maskless(self.spec, adapter.maskless())
            self.reader.listen(state, number, new)
            if new is not given:
                args, kwargs = adapter.write_layer(layer, new, args, kwargs)
            if shared:
                flow.alike.keep(flow.kind(number), given.hidden, handed, (args, kwargs))
            return original(*args, **kwargs)

        return forward

    def _step(
        self,
        original: Callable[..., Any],
        step: Step,
        args: tuple[Any, ...],
        kwargs: Arguments,
    ) -> Any:
        """New tokens of text behind a cache of fixed length."""
        given = self.adapter.read_llm(args, kwargs)
        check_counted(self.spec, given)
        new = llm_call(step, given, self.adapter, compact=self.numbering.compact_entry)
        put, named = self.adapter.write_llm(new, args, kwargs)
        with self.adapter.heeding(given.cache):
            return original(*put, **named)

    def _layer_step(
        self,
        original: Callable[..., Any],
        number: int,
        step: Step,
        args: tuple[Any, ...],
        kwargs: Arguments,
    ) -> Any:
        """A layer's forward over new tokens behind a cache of fixed length."""
        layer = self.spec.layers[number]
        given = self.adapter.read_layer(layer, args, kwargs)
        compact, flat = self.numbering.compact_layers, number in self.spec.flat_layers
        new = layer_call(step, number, given, self._rotary, compact=compact, flat=flat)
        if new is not given:
            args, kwargs = self.adapter.write_layer(layer, new, args, kwargs)
        return original(*args, **kwargs)

    def _decide(
        self, call: CallState, state: MllmState, flow: Flow, stage: DecoderStage, given: LayerCall
    ) -> None:
        number, left, layout = stage.site.layer, state.left, flow.layout
        hidden = given.hidden.flatten(2)
        if waiting(left.rows) or (stage.prunes_text and waiting(left.texts)):
            before = layout.standing(number)
            signals = self.reader.read(state, flow, stage, given)
            decision, rows, texts = cut(
                call, stage, hidden, before, left.rows, left.texts, state.counted.arrived, signals
            )
            slot_of = None
            if decision is not None:
                layout.cuts[number] = decision
                slot_of = partial(new_slots, decision.level, before.length)
            left.cut(rows, texts, slot_of)
        state.projected.pop(number, None)
        state.counted.behind[number] = left.visual
        call.meter.count(str(stage.site), left.visual, left.pictures)
        if stage.prunes_text:
            call.meter.count(f"text[{number}]", *left.text)

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


def _require(flow: Flow, number: int) -> None:
    """Refuse a forward of the LLM in which a layer in front of layer `number` was left out."""
    if flow.layer + 1 != number:
        raise UnsupportedCallError(
            f"layer {flow.layer + 1} was replaced or left out since the plan was attached.",
            where="language model",
            remedy="Detach the plan and attach it again to the model as it is now.",
        )
