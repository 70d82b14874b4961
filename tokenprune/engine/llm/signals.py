"""What a decoder stage asks for, read beside the layer before it or the layer ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tokenprune.engine.call import current
from tokenprune.engine.llm.attention import (
    last_query_attention,
    prompt_attention,
    question_attention,
)
from tokenprune.engine.llm.level import Level
from tokenprune.engine.llm.stages import AHEAD, LAYER_BEFORE, QUESTION, SUPPLIED, TEXT, DecoderStage
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.llm.text import PromptText, SiteSignals
from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import MllmAdapter, MllmSpec
from tokenprune.interface.signals import Signal

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

    def install(self, patches: Patches, stages: Iterable[DecoderStage]) -> None:
        """Put aside what the layers before the stages project, where it is asked for."""
        for stage in stages:
            number = stage.site.layer
            if stage.signals & LAYER_BEFORE:
                named = self.adapter.projections(self.spec.layers[number - 1])
                for name, module in named.items():
                    patches.hook(module, self._put_aside(number, name))

    def read(
        self, state: MllmState, stage: DecoderStage, hidden: Tensor, level: Level
    ) -> SiteSignals:
        """All signals that a stage asks for.

        Args:
            state: the call's; what was put aside for the stage is taken out.
            stage: the stage.
            hidden: `[B, T, D]` input of its layer.
            level: the sequence it stands for.
        """
        wanted, projected = stage.signals, state.projected.pop(stage.site.layer, {})
        if not wanted & SUPPLIED:
            return SiteSignals()
        assert state.prompt is not None
        text = PromptText.at(level, state.prompt)
        found: dict[Signal, Tensor] = {}
        if wanted & LAYER_BEFORE:
            before = self.spec.layers[stage.site.layer - 1]
            query, key = self.adapter.query_key(before, projected, state.rotary)
            if Signal.LAST_QUERY_ATTENTION in wanted:
                found[Signal.LAST_QUERY_ATTENTION] = last_query_attention(
                    query, key, text.last, level.valid
                )
            if wanted & QUESTION:
                most, mean = question_attention(query, key, text.asking(), level.valid)
                found[Signal.QUESTION_ATTENTION_MAX] = most
                found[Signal.QUESTION_ATTENTION_MEAN] = mean
            if Signal.PROMPT_ATTENTION_MEAN in wanted:
                asking = text.prompt(level.valid)
                mean = prompt_attention(query, key, asking, level.valid)
                found[Signal.PROMPT_ATTENTION_MEAN] = mean
        if wanted & AHEAD:
            found |= self._ahead(state, stage, hidden, level, text.last)
        columns = {signal.name: values for signal, values in found.items() if signal in wanted}
        return SiteSignals(columns, text if wanted & TEXT else None)

    def _ahead(
        self, state: MllmState, stage: DecoderStage, hidden: Tensor, level: Level, last: Tensor
    ) -> dict[Signal, Tensor]:
        layer = self.spec.layers[stage.site.layer]
        projected = self.adapter.project(layer, hidden)
        rotary = {Signal.AHEAD_ATTENTION: state.rotary, Signal.AHEAD_ATTENTION_UNROTATED: None}
        return {
            signal: last_query_attention(
                *self.adapter.query_key(layer, projected, rows), last, level.valid
            )
            for signal, rows in rotary.items()
            if signal in stage.signals
        }

    def _put_aside(self, number: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            call = current(self.owner)
            state = None if call is None else call.state(MllmState)
            if state is None or state.flow is None:
                return
            if state.flow.mode == "first":
                state.projected.setdefault(number, {})[name] = output

        return hook
