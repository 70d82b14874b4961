"""What a decoder stage asks for, read beside the layer before it or the layer ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tokenprune.engine.call import current
from tokenprune.engine.llm.level import Level
from tokenprune.engine.llm.stages import DecoderStage
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.llm.text import SiteSignals, prompt_text
from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import MllmAdapter, MllmSpec
from tokenprune.interface.signals import LayerAhead, LayerBefore, read

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
            if any(signal.reads(LayerBefore) for signal in stage.signals):
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
        projected = state.projected.pop(stage.site.layer, {})
        if not stage.signals:
            return SiteSignals()
        assert state.prompt is not None
        text = prompt_text(level, hidden, state.prompt)
        number, rotary = stage.site.layer, state.rotary

        def before(rotated: bool) -> tuple[Tensor, Tensor]:
            layer = self.spec.layers[number - 1]
            return self.adapter.query_key(layer, projected, rotary if rotated else None)

        @cache  # signals with and without rotation share it
        def entering() -> Mapping[str, Tensor]:
            return self.adapter.project(self.spec.layers[number], hidden)

        def ahead(rotated: bool) -> tuple[Tensor, Tensor]:
            layer = self.spec.layers[number]
            return self.adapter.query_key(layer, entering(), rotary if rotated else None)

        views = text, LayerBefore(before, text), LayerAhead(ahead, text)
        found = read(stage.signals, *views)
        return SiteSignals({s: found[s.name] for s in stage.signals if s.name in found}, text)

    def _put_aside(self, number: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            call = current(self.owner)
            state = None if call is None else call.state(MllmState)
            if state is None or state.flow is None:
                return
            if state.flow.mode == "first":
                state.projected.setdefault(number, {})[name] = output

        return hook
