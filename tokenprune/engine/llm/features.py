"""Where the core asks for the features of its pictures: what there is to prune behind a tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokenprune.engine.call import CallState, current
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.images import ImageTokens, count_pictures
from tokenprune.engine.llm.state import MllmState, state_of
from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.places import Places

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


class FeatureSeam:
    """The pictures of a model as its core gets them, of any number and size.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
    """

    encoder: EncoderRunner | None = None

    def __init__(self, owner: Attachment, adapter: MllmAdapter) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, adapter.spec()

    def install(self, patches: Patches) -> None:
        """Override the methods of the core that make features."""
        for method in dict.fromkeys(one.method for one in self.spec.modalities.values()):
            patches.override(self.spec.core, method, self._made(method))

    def _made(self, method: str) -> Callable[..., Any]:
        def make(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            state = None if call is None else state_of(call)
            # a method for clips may call that for images
            if call is None or state is None or state.encoding:
                return original(*args, **kwargs)
            state.encoding = True
            try:
                with call.meter.stage("encode"):
                    made = original(*args, **kwargs)
            finally:
                state.encoding = False
            kind = self._kind(method, state)
            self._enter(call, state, kind, self.adapter.places(kind, args, kwargs, made))
            return made

        return make

    def _kind(self, method: str, state: MllmState) -> str:
        """Which pictures a call of a method is for, if it serves several kinds."""
        kinds = [name for name, one in self.spec.modalities.items() if one.method == method]
        given = [name for name in kinds if name in state.given.kinds]
        new = [name for name in given if name not in state.pictures]
        return (new or given[-1:] or kinds)[0]

    def _enter(self, call: CallState, state: MllmState, kind: str, shown: list[Places]) -> None:
        device = next(self.spec.language_model.parameters()).device
        images = [
            ImageTokens.whole(call.trace.begin(1, places.grid)[0], places, device)
            for places in shown
        ]
        state.pictures[kind] = images
        frames = sum(image.grid[0] for image in images)
        units = sum(image.patches for image in images)
        call.meter.count("units", units, frames)
        count_pictures(call.meter, images)
        if not self.owner.stages:
            call.meter.count("llm_average", units, frames)
