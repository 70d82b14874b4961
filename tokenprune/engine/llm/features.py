"""Where the core asks for the features of its pictures: what there is to prune behind a tower."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.call import CallState, current
from tokenprune.engine.checks import refuse_signals
from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.images import count_pictures
from tokenprune.engine.llm.arrivals import Arrival, unseen
from tokenprune.engine.llm.embedded_text import PROMPT_VIEWS, EmbeddedText
from tokenprune.engine.llm.followed import blended, follow
from tokenprune.engine.llm.sharing import prompts_of
from tokenprune.engine.llm.state import MllmState, state_of
from tokenprune.engine.llm.units import Located, image_batches, image_of, left, replaced
from tokenprune.engine.patching import Patches
from tokenprune.engine.pre_llm.stages import count_left, run_stages
from tokenprune.engine.spreading import spread
from tokenprune.engine.videos import as_videos
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import Arguments
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Site
from tokenprune.ops import take

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment

SITE = Site.behind(0)
"""Between tower and LLM; no block of the tower is followed."""


class FeatureSeam:
    """The pictures of a model as its core gets them, of any number and size.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
    """

    runner: EncoderRunner | None = None

    def __init__(self, owner: Attachment, adapter: MllmAdapter) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, adapter.spec()
        self.stages = owner.stages_at("pre_llm")
        self.towers = follow(owner, adapter)
        tower = next(iter(self.towers.values()), None)
        self.site = SITE if tower is None else tower.site
        if tower is None:
            for stage in self.stages:
                refuse_signals(stage, [SITE], self.spec.supplies & PROMPT_VIEWS, adapter)
        self.text = EmbeddedText(adapter, self.spec, self.stages, self.site)

    def install(self, patches: Patches) -> None:
        """Override the methods of the core that make features, and those of the towers."""
        for tower in dict.fromkeys(self.towers.values()):
            tower.install(patches)
        projectors = (kind.projector for one in self.towers.values() for kind in one.kinds.values())
        for projector in dict.fromkeys(projectors):
            if projector is not None:
                patches.override(projector, "forward", self._project)
        for method in dict.fromkeys(one.method for one in self.spec.modalities.values()):
            patches.override(self.spec.core, method, self._made(method))

    def _made(self, method: str) -> Callable[..., Any]:
        def make(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = current(self.owner)
            if call is None:
                self._refuse_alone(method)
                return original(*args, **kwargs)
            state = state_of(call)
            # a method for clips may call that for images
            if state.encoding is not None:
                return original(*args, **kwargs)
            kind = self._kind(method, state)
            self._require(kind, args, kwargs)
            state.encoding, state.clips = kind, self.adapter.frames(kind, args, kwargs)
            try:
                with call.meter.stage("encode"):
                    for tower in self.towers.values():
                        tower.forget(call)
                    made = original(*args, **kwargs)
            finally:
                state.encoding = state.clips = None
            shown = self.adapter.places(kind, args, kwargs, made)
            shown = self.adapter.whole_pictures(kind, shown, state.given.ids)
            if self.owner.plan.images == "frames":
                placeholder = self.spec.placeholders[kind]
                shown = as_videos(shown, state.ids(self.spec), placeholder, self.spec.names)
            if self.owner.plan.separators == "keep":
                shown = [places.fixed() for places in shown]
            if not self.owner.stages:
                return self._enter(call, state, kind, made, shown)
            with call.meter.stage("select"):
                return self._enter(call, state, kind, made, shown)

        return make

    def _project(
        self, original: Callable[..., Any], features: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """A projector that gets a row for every unit of every piece, or of its members.

        It runs on the units that are left; what it makes has rows of all again, zeros for the rest.
        """
        call = current(self.owner)
        if call is None:
            return original(features, *args, **kwargs)
        mllm = call.state(MllmState)
        if mllm is None or mllm.encoding is None:
            return original(features, *args, **kwargs)
        state, packed = call.state(EncoderState), call.state(PackedState)
        if packed is not None and not packed.untouched:
            with call.meter.stage("project"):
                rows, outer = features.flatten(0, -2), features.shape[:-2]
                units = rows[packed.packing.members_of(packed.numbers.to(rows.device))]
                given, named = self.adapter.write_units(
                    mllm.encoding, units, (features, *args), kwargs
                )
                made = packed.units(original(*given, **named))
                return made.view(*outer, *made.shape)
        with call.meter.stage("project"):
            if state is None:
                return original(features, *args, **kwargs)
            count, index = math.prod(state.grid), state.index.to(features.device)
            if index.shape[1] == count:
                return original(features, *args, **kwargs)
            # class tokens stand in front where the model projects them too
            prefix = features.shape[1] - count
            kept = torch.cat((features[:, :prefix], take(features[:, prefix:], index)), dim=1)
            return spread(original(kept, *args, **kwargs), index, prefix, count)

    def _refuse_alone(self, method: str) -> None:
        if any(tower.removes for tower in self.towers.values()):
            raise UnsupportedCallError(
                "image features alone can't be pruned here: what is left of them is told to the "
                "LLM.",
                where=method,
                remedy=f"Call generate or forward of the model, with {self.spec.names.pictures}.",
            )

    def _kind(self, method: str, state: MllmState) -> str:
        """Which pictures a call of a method is for, if it serves several kinds."""
        kinds = [name for name, one in self.spec.modalities.items() if one.method == method]
        given = [name for name in kinds if name in state.given.kinds]
        new = [name for name in given if name not in state.pictures]
        return (new or given[-1:] or kinds)[0]

    def _require(self, kind: str, args: tuple[Any, ...], kwargs: Arguments) -> None:
        """Refuse pictures that can't be followed through a tower, if the plan needs that."""
        if not self.towers:
            return
        if kind not in self.towers:
            raise blended(kind, "its adapter doesn't follow them.")
        self.towers[kind].refuse_overlapping(kind, args, kwargs)

    def _arrived(
        self, call: CallState, kind: str, shown: list[Places], device: torch.device
    ) -> list[Arrival]:
        tower = self.towers.get(kind)
        if tower is None:
            return unseen(shown, call.trace, device)
        return tower.arrived(call, kind, shown, device)

    def _enter(
        self, call: CallState, state: MllmState, kind: str, made: Any, shown: list[Places]
    ) -> Any:
        """Note the pictures, and let the stages between tower and LLM have them."""
        features = self.adapter.features(made)
        here = self._arrived(call, kind, shown, features.device)
        images = [image_of(one) for one in here]
        frames = sum(image.grid[0] for image in images)
        units = sum(image.patches for image in images)
        call.meter.count("units", units, frames)
        call.meter.count_tiles(sum(image.tiles for image in images), frames)
        entered_tower = call.state(PackedState) or call.state(EncoderState)
        for name in () if entered_tower is None else entered_tower.counted:
            call.meter.count(name, 0, frames)  # its tokens were counted when pieces passed
        if self.stages:
            bare = sum(image.count for image in images) != len(features)
            located = Located.of(shown, bare=bare, device=features.device)
            prompts = prompts_of(state, self.spec, kind, images)
            batches = image_batches(here, located, features, call)
            told = self.text.of(state, kind, images, features.device)
            for batch in batches:
                batch.shared = {name: value[batch.rows] for name, value in told.items()}
            entered = [batch.hidden for batch in batches]
            batches = run_stages(call, self.stages, batches, self.site, prompts)
            count_left(call, batches)
            images = left(images, batches)
            # new tokens may be as many as arrived
            if any(all(one.hidden is not was for was in entered) for one in batches):
                made = self.adapter.with_features(made, replaced(features, located, batches))
        state.pictures[kind] = images
        count_pictures(call.meter, images)
        if not self.owner.stages:
            call.meter.count("llm_average", units, frames)
        return made
