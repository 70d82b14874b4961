"""What a decoder stage asks for, read beside the layer before it or the layer ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tokenprune.engine.call import current_state
from tokenprune.engine.llm.attending import attending
from tokenprune.engine.llm.flow import Flow
from tokenprune.engine.llm.masks import seen_by
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.llm.text import SiteSignals, prompt_text
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import LayerCall, Rotary
from tokenprune.interface.signals import (
    LayerAhead,
    LayerAttention,
    LayerBefore,
    LayerInput,
    LayerValues,
    OutputNorm,
    PromptText,
    Rotation,
    View,
    read,
)
from tokenprune.interface.specs import MllmSpec

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


class SignalReader:
    """Reads signals for decoder stages; no layer's own attention is touched.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
        spec: the model as data.
    """

    def __init__(self, owner: Attachment, adapter: MllmAdapter, spec: MllmSpec) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, spec
        # by the layer whose attention is read, the one whose stage reads it; and layers whose stage
        # reads what entered the layer in front of it
        self.asked: dict[int, int] = {}
        self.entered: set[int] = set()
        self._hooked: dict[tuple[int, str], tuple[nn.Module, RemovableHandle]] = {}

    def install(self, stages: Iterable[DecoderStage]) -> None:
        """Put aside what the layers before the stages project, where it is asked for."""
        for stage in stages:
            number = stage.site.layer
            if stage.reads(LayerInput):
                self.entered.add(number)
            if stage.reads(LayerBefore, LayerValues):
                before = attending(self.adapter, self.spec, number)
                assert before is not None  # checked at attach
                self.asked[before] = number
        self.follow()

    def follow(self) -> None:
        """Hook the projections that the layers have now; people put adapters and hooks on them."""
        for before, number in self.asked.items():
            named = self.adapter.projections(self.spec.layers[before])
            for name, module in named.items():
                known, handle = self._hooked.get((number, name), (None, None))
                if handle is not None and known is module:
                    self.owner.patches.run_last(module, handle)
                    continue
                if handle is not None:
                    handle.remove()
                new = self.owner.patches.hook(module, self._put_aside(number, name))
                self._hooked[number, name] = module, new

    def listens(self, number: int) -> bool:
        """Whether a layer's attention or its input is asked for."""
        return number + 1 in self.entered or number in self.asked

    def listen(self, state: MllmState, number: int, call: LayerCall) -> None:
        """Put aside what a layer is called with, where its attention or its input is asked for."""
        if state.flow is None or state.flow.mode != "first":
            return
        if number + 1 in self.entered:
            state.entered[number + 1] = call.hidden
        if number in self.asked:
            state.heard[self.asked[number]] = number, call

    def read(
        self, state: MllmState, flow: Flow, stage: DecoderStage, given: LayerCall
    ) -> SiteSignals:
        """All signals that a stage asks for.

        Args:
            state: the call's; what was put aside for the stage is taken out.
            flow: the forward that is running.
            stage: the stage.
            given: what the stage's layer is called with; its input is that of the tokens that are
                left there, the rest stands for the LLM's input.
        """
        number = stage.site.layer
        projected, heard = state.projected.pop(number, {}), state.heard.pop(number, None)
        entered = state.entered.pop(number, None)
        if not stage.signals:
            return SiteSignals()
        assert state.prompt is not None
        text = prompt_text(flow.layout.level(number), given.hidden.flatten(2), state.prompt)
        views: list[View] = [text, OutputNorm(self.adapter.final_norm, text)]
        if entered is not None:
            views.append(LayerInput(entered.flatten(2), text))
        if heard is not None:
            before, call = self.spec.layers[heard[0]], heard[1]
            projecting = partial(_heard, heard[0], projected)
            views.append(self._attention(LayerBefore, flow, *heard, text, projecting))
            views.append(LayerValues(lambda: self.adapter.values(before, call.hidden), text))
        if stage.reads(LayerAhead):
            # nothing is cut here yet, so this is what the layer would get without the stage
            ahead, layer = flow.layer_call(number, given), self.spec.layers[number]
            project = partial(self.adapter.project, layer, ahead.hidden)
            views.append(self._attention(LayerAhead, flow, number, ahead, text, project))
        found = read(stage.signals, *views)
        return SiteSignals({s: found[s.name] for s in stage.signals if s.name in found}, text)

    def _attention(
        self,
        kind: type[LayerAttention],
        flow: Flow,
        number: int,
        call: LayerCall,
        text: PromptText,
        project: Callable[[], Mapping[str, Tensor]],
    ) -> LayerAttention:
        """The attention of a layer; it is projected once, with and without rotation."""
        layer, projected = self.spec.layers[number], cache(project)

        def rows(rotation: Rotation) -> Rotary:
            if rotation == "counted":
                return self.adapter.counted(call.rotary, text.valid.long().argmax(dim=1))
            return call.rotary if rotation == "layer" else None

        def heads(rotation: Rotation) -> tuple[Tensor, Tensor]:
            if rotation == "ones":
                ones = self.adapter.ones(layer, call.hidden, call.rotary)
                return ones, ones
            return self.adapter.query_key(layer, projected(), rows(rotation))

        mask, cap = seen_by(self.adapter.seen(layer, call)), self.adapter.softcap(layer)
        if flow.earlier is None:
            return kind(heads, text, mask, cap)
        front, behind = flow.earlier.layout.level(number), flow.earlier.cache
        mask = None if mask is None else mask[..., front.length :]

        def keys() -> tuple[Tensor, Tensor]:
            # behind those of earlier turns, the layer's cache may hold the turn's own already
            return self.adapter.cached_heads(behind, number)[:, :, : front.length], front.valid

        return kind(heads, text, mask, cap, ahead=keys)

    def _put_aside(self, number: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            state = current_state(self.owner, MllmState)
            if state is not None and state.flow is not None and state.flow.mode == "first":
                state.projected.setdefault(number, {})[name] = output

        return hook


def _heard(number: int, projected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What the hooks on a layer's projections put aside."""
    if not projected:
        raise UnsupportedCallError(
            "the query and key projections ran without the hooks that the plan placed on them.",
            where=f"LLM layer {number}",
            remedy="Call torch.compiler.reset() behind attach() if the model is compiled: code "
            "that was compiled before doesn't heed new hooks.",
        )
    return projected
