"""Run the layers of an LLM: decide in front of some, and tell each what is of the tokens left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.compiler import is_compiling

from tokenprune.engine.call import CallState, current, current_state
from tokenprune.engine.llm.cut import cut, waiting
from tokenprune.engine.llm.fixed import Step
from tokenprune.engine.llm.fixed_steps import FixedSteps
from tokenprune.engine.llm.flow import Flow
from tokenprune.engine.llm.level import new_slots, take
from tokenprune.engine.llm.refusals import check_maskless
from tokenprune.engine.llm.signals import SignalReader
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.patching import Patches
from tokenprune.engine.recomputing import refuse_repeated
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import Arguments, LayerCall, LlmCall, Written
from tokenprune.interface.specs import MllmSpec

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


class LayerRunner:
    """Everything the engine does in the layers of an LLM.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
        spec: the model as data.
        stages: decoder stages by the layer in front of which they act.
        steps: what runs layers behind caches of fixed length.
    """

    def __init__(
        self,
        owner: Attachment,
        adapter: MllmAdapter,
        spec: MllmSpec,
        stages: Mapping[int, DecoderStage],
        steps: FixedSteps,
    ) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, spec
        self.stages, self.steps = stages, steps
        self.first_cut = min(stages, default=len(spec.layers))
        self.reader = SignalReader(owner, adapter, spec)

    def install(self, patches: Patches) -> None:
        """Override the layers' forwards, and the methods that add to what a layer puts out."""
        for number, layer in enumerate(self.spec.layers):
            patches.override(layer, "forward", self._layer(number))
        for method in self.spec.injections:
            patches.override(self.spec.language_model, method, self._inject(method))
        self.reader.install(self.stages.values())

    def taken_over(self, call: LlmCall) -> tuple[LlmCall, dict[int, Tensor]]:
        """The LLM's call without the rows that it would add behind the first cut, and these."""
        names = {
            layer: name
            for layer, name in self.spec.added.items()
            if layer > self.first_cut and name in call.per_token
        }
        if not names:
            return call, {}
        rest = {name: one for name, one in call.per_token.items() if name not in names.values()}
        added = {layer: call.per_token[name] for layer, name in names.items()}
        return replace(call, per_token=rest), added

    def _layer(self, number: int) -> Callable[..., Any]:
        layer, adapter = self.spec.layers[number], self.adapter

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            if call is None:
                if number >= self.first_cut or not adapter.ignores_positions():
                    refuse_repeated(f"layer {number}", self.spec.language_model)
                return original(*args, **kwargs)
            step = call.state(Step)
            if step is not None:
                return self.steps.run_layer(original, number, step, args, kwargs)
            state = call.state(MllmState)
            if state is None or state.flow is None:
                return original(*args, **kwargs)
            flow = state.flow
            require_all(flow, number)
            flow.layer = number
            if number in flow.added:
                args, kwargs = self._added(flow, number, args, kwargs)
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

    def _decide(
        self, call: CallState, state: MllmState, flow: Flow, stage: DecoderStage, given: LayerCall
    ) -> None:
        number, left, layout = stage.site.layer, state.left, flow.layout
        hidden = given.hidden.flatten(2)
        if waiting(left.rows) or (stage.prunes_text and waiting(left.texts)):
            before = layout.counted(number)
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

    def _added(self, flow: Flow, number: int, args: tuple[Any, ...], kwargs: Arguments) -> Written:
        """A layer's arguments with what is added to the tokens that the layer before had."""
        layer, rows = self.spec.layers[number], flow.added[number]
        cut = flow.layout.cut_before(number - 1)
        if cut is not None:
            rows = take(rows, cut.level.column)
        given = self.adapter.read_layer(layer, args, kwargs)
        hidden = given.hidden + rows.to(given.hidden)
        return self.adapter.write_layer(layer, replace(given, hidden=hidden), args, kwargs)

    def _inject(self, method: str) -> Callable[..., Any]:
        """A method that adds rows of the LLM's input behind a layer, which may see fewer."""

        def inject(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = current_state(self.owner, MllmState)
            flow = None if state is None else state.flow
            cut = None if flow is None else flow.layout.cut_before(flow.layer)
            if flow is not None and flow.mode != "continue" and cut is not None:
                columns = cut.level.column
                args, kwargs = self.adapter.narrow_injection(method, columns, args, kwargs)
            return original(*args, **kwargs)

        return inject


def require_all(flow: Flow, number: int) -> None:
    """Refuse a forward of the LLM in which a layer in front of layer `number` was left out.

    Raises:
        UnsupportedCallError: naming the first of them.
    """
    if flow.layer + 1 != number:
        raise UnsupportedCallError(
            f"layer {flow.layer + 1} was replaced or left out since the plan was attached.",
            where="language model",
            remedy="Detach the plan and attach it again to the model as it is now.",
        )
