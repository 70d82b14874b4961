"""Run the LLM over a shortened sequence and hand back states of the prompt's own length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import Tensor

from tokenprune.engine.call import CallState, current
from tokenprune.engine.llm.cut import cut, waiting
from tokenprune.engine.llm.layout import Flow, Layout, Mode, continuation, continued, trim_caches
from tokenprune.engine.llm.level import spread, take
from tokenprune.engine.llm.prompt import lay_out
from tokenprune.engine.llm.refusals import (
    LAYOUT,
    cached_length,
    check_language,
    given_cache,
    returned_cache,
)
from tokenprune.engine.llm.signals import SignalReader
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.patching import Patches
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter, MllmSpec

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


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
        self.compact = owner.plan.positions == "compact"
        self.text = any(stage.prunes_text for stage in stages)
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
        self.reader.install(patches, self.stages.values())

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = current(self.owner)
        state = None if call is None else call.state(MllmState)
        if call is None or state is None or state.aside:
            return original(*args, **kwargs)
        past = cached_length(given_cache(self.spec, kwargs)[1])
        later = bool(past) or state.prefilled
        state.prefilled = True
        with call.meter.stage("decode" if later else "prefill"):
            if not self.owner.stages:
                return original(*args, **kwargs)
            if kwargs.get("inputs_embeds") is None:
                raise UnsupportedCallError(
                    "the LLM was called without embeddings by keyword, so its visual tokens can't "
                    "be found.",
                    where=type(self.spec.language_model).__name__,
                    remedy="Call generate or forward of the whole model.",
                )
            if past:
                return self._continue(original, state, past, kwargs)
            return self._prompt(call, original, state, kwargs)

    def _continue(
        self, original: Callable[..., Any], state: MllmState, past: int, kwargs: dict[str, Any]
    ) -> Any:
        """New tokens of text behind a cache."""
        name, given = given_cache(self.spec, kwargs)
        layout = getattr(given, LAYOUT, None)
        if layout is None:
            return original(**kwargs)
        if layout.owner != self.token:
            raise UnsupportedCallError(
                "this KV cache was shortened by another plan.",
                where=name,
                remedy="Start again without it.",
            )
        whole = layout.length + past - layout.base.length + kwargs["inputs_embeds"].shape[1]
        check_language(self.spec, whole, kwargs.get("attention_mask"))
        kwargs = continuation(layout, past, kwargs, compact=self.compact)
        state.flow = self._flow(layout, "continue", past)
        try:
            return original(**kwargs)
        finally:
            state.flow = None

    def _prompt(
        self,
        call: CallState,
        original: Callable[..., Any],
        state: MllmState,
        kwargs: dict[str, Any],
    ) -> Any:
        """The prompt, or without cache the prompt and what was generated so far."""
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        mode: Mode = "first"
        if state.layout is not None and embeds.shape[1] >= state.layout.length:
            mode, layout = "again", state.layout.longer(embeds.shape[1] - state.layout.length)
        elif state.prompt is None or state.images is None:
            return original(**kwargs)
        else:
            check_language(self.spec, embeds.shape[1], mask)
            layout = state.layout = lay_out(state, self.spec, self.token, embeds, mask, self.text)
            layout.trim = self.trim
        state.flow = self._flow(layout, mode, 0)
        try:
            outputs = original(**self._shortened(layout, kwargs))
            if mode == "first":
                self._count(call, state)
        finally:
            state.flow = None
            state.rows, state.texts, state.projected = [], [], {}
        if layout.changes:
            self._spread(layout, outputs)
            cache = returned_cache(self.spec, outputs)
            if cache is not None:
                trim_caches(layout, self.adapter, cache)
                setattr(cache, LAYOUT, continued(layout))
        return outputs

    def _flow(self, layout: Layout, mode: Mode, past: int) -> Flow:
        flat = self.adapter.padding_masks()
        return Flow(layout, mode, self.compact, flat, self.adapter.rotary, past)

    def _shortened(self, layout: Layout, kwargs: dict[str, Any]) -> dict[str, Any]:
        if not layout.shortened:
            return kwargs
        base, embeds = layout.base, kwargs["inputs_embeds"]
        position = kwargs.get("position_ids")
        if position is None:
            position = torch.arange(embeds.shape[1], device=embeds.device)[None]
        position = take(position, base.full)
        if self.compact:
            position = (position - base.shift).clamp(min=0)
        return {
            **kwargs,
            "inputs_embeds": take(embeds, base.full),
            "position_ids": position,
            # never None: gaps between position ids would be taken for borders of packed sequences
            "attention_mask": base.valid.long(),
        }

    def _spread(self, layout: Layout, outputs: Any) -> None:
        deepest = layout.level(len(self.spec.layers))
        last = outputs.last_hidden_state
        outputs.last_hidden_state = spread(last, deepest, layout.length)
        states = getattr(outputs, "hidden_states", None)
        if states is not None:
            outputs.hidden_states = tuple(
                outputs.last_hidden_state
                if state is last
                else state
                if state is None
                else spread(state, layout.level(number - 1), layout.length)
                for number, state in enumerate(states)
            )

    def _layer(self, number: int) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            state = None if call is None else call.state(MllmState)
            if call is None or state is None or state.flow is None:
                return original(hidden, *args, **kwargs)
            flow = state.flow
            if number == 0:  # no cut yet: those of the LLM's input are its own
                state.rotary = kwargs["position_embeddings"]
            if flow.mode == "first" and number in self.stages:
                with call.meter.stage("select"):
                    self._decide(call, state, flow.layout, self.stages[number], hidden)
            if flow.mode != "continue" and number in flow.layout.cuts:
                hidden = flow.layout.cuts[number].apply(hidden)
            kwargs = flow.arguments(number, hidden, kwargs)
            state.rotary = kwargs["position_embeddings"]
            return original(hidden, *args, **kwargs)

        return forward

    def _decide(
        self,
        call: CallState,
        state: MllmState,
        layout: Layout,
        stage: DecoderStage,
        hidden: Tensor,
    ) -> None:
        number = stage.site.layer
        if waiting(state.rows) or (stage.prunes_text and waiting(state.texts)):
            before = layout.standing(number)
            signals = self.reader.read(state, stage, hidden, before)
            decision, state.rows, state.texts = cut(
                call, stage, hidden, before, state.rows, state.texts, state.arrived, signals
            )
            if decision is not None:
                layout.cuts[number] = decision
        state.projected.pop(number, None)
        state.counts[number] = state.visual
        call.meter.count(str(stage.site), state.counts[number], state.pictures)
        if stage.prunes_text:
            call.meter.count(f"text[{number}]", *state.text)

    def _count(self, call: CallState, state: MllmState) -> None:
        """Measured visual tokens per image, averaged over the LLM's layers."""
        edges = [*sorted(state.counts), len(self.spec.layers)]
        total = float(state.entered * edges[0])
        for start, end in pairwise(edges):
            total += state.counts[start] * (end - start)
        call.meter.count("llm_average", total / len(self.spec.layers), state.pictures)
