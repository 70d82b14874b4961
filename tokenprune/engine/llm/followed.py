"""Towers whose tokens are followed into the prompt, although the core arranges their features.

A tower sees pieces of pictures (images, tiles, crops or frames), equally many units of each. What
it hands on has rows for all patches again, so the core projects and arranges it as ever; which
units are left of which picture is told here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.call import CallState, current
from tokenprune.engine.checks import refuse_signals
from tokenprune.engine.encoder.install import encoder_runner
from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.running_call import RUNNING
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.encoder.surroundings import Surroundings
from tokenprune.engine.llm.arrivals import Arrival, arrived, unseen
from tokenprune.engine.llm.embedded_text import PROMPT_VIEWS
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.llm.whole_arrivals import (
    arrived_tiled,
    arrived_whole,
    clips_of,
    pictures_of,
)
from tokenprune.engine.patching import Patches
from tokenprune.engine.stages import wanted
from tokenprune.engine.videos import Videos, require_frames, videos_of
from tokenprune.errors import PictureWarning, UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import Arguments
from tokenprune.interface.places import Places
from tokenprune.interface.signals import BLOCK_VIEWS, CLASS_VIEWS, TowerSpace
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import Tower
from tokenprune.interface.strategy import placement

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


class FollowedTower(Surroundings):
    """One tower of a multimodal LLM, for one or several kinds of picture.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
        kinds: the kinds of picture that come through it, and how.

    Raises:
        TokenpruneError: the plan doesn't fit the tower; see `encoder_runner`.
        UnsupportedModelError: class tokens would be taken for units.
    """

    def __init__(self, owner: Attachment, adapter: MllmAdapter, kinds: dict[str, Tower]) -> None:
        self.owner, self.adapter, self.kinds = owner, adapter, kinds
        self.tower = next(iter(kinds.values()))
        encoder = choose_encoder(self.tower.module, self.tower.encoder)
        spec = encoder.spec()
        # which question belongs to a tile isn't told before the LLM
        told = adapter.spec().supplies & PROMPT_VIEWS
        self.supplies = (spec.supplies - adapter.withholds - {TowerSpace}) | told
        for stage in owner.stages_at("pre_llm"):
            refuse_signals(stage, [self.site], self.supplies, adapter)
        self.levels = frozenset(self.tower.levels)
        # frames are traced as the videos that they are from the start, pieces when they are known
        self.pieces = owner.plan.images != "frames"
        self.runner = encoder_runner(owner, encoder, spec, self, self.tower.used)
        self.spec = self.runner.spec
        if self.spec.packed:
            self._refuse_depths()
        else:
            self._refuse_spanning()
        for kind, tower in kinds.items():
            if tower.cut != self.spec.prefix:
                raise UnsupportedModelError(
                    f"the model takes {tower.cut} leading token(s) of a {kind} off, and its tower "
                    f"puts {self.spec.prefix} in front of the patches.",
                    where=type(adapter.spec().core).__name__,
                    remedy="Let the model's config cut off exactly the class token of its tower.",
                )
            self._warn(kind, tower.blended or adapter.may_overlap(kind))

    def _warn(self, kind: str, why: str | None) -> None:
        """Say which pictures this plan refuses, because their units can't be told apart."""
        if why is not None and self._parts:
            warnings.warn(
                f"this plan can refuse a call for its {kind}: {why}", PictureWarning, stacklevel=2
            )

    @property
    def _parts(self) -> bool:
        """Whether units have to be told apart: some are removed, or signals of them are read."""
        if _reads(self.owner, self.tower):
            return True
        units = math.prod(self.spec.grid) // self.tower.side**2
        return self.removes and self.runner.layout.kept(units) < units

    def _refuse_depths(self) -> None:
        """Refuse to remove rows of a packed tower whose states are read at several depths."""
        if self.removes and len(self.tower.levels) > 1:
            raise UnsupportedModelError(
                f"the model reads its tower's states behind {list(self.tower.levels)} blocks, and "
                "a tower that packs its pictures has rows for all units behind the last one only.",
                where=self.owner.stages_at("encoder")[0].where,
                remedy="Use a strategy that restores its tokens, or at: pre_llm.",
            )

    def _refuse_spanning(self) -> None:
        """Refuse strategies that would see whole clips, of which this tower sees single frames."""
        frames = [kind for kind, tower in self.kinds.items() if tower.frames]
        for stage in self.owner.stages_at("encoder"):
            if frames and stage.strategy.spans_frames():
                raise UnsupportedModelError(
                    f"the tower sees the frames of a {frames[0]} one by one, and "
                    f"'{stage.plan.strategy}' is to act across them.",
                    where=stage.where,
                    remedy="Let it act within frames, or use at: pre_llm, where whole clips stand.",
                )

    def side(self, call: CallState | None) -> int:
        """Rows and columns of patches that make one unit, of the pictures that are encoded."""
        state = None if call is None else call.state(MllmState)
        kind = None if state is None else state.encoding
        return self.tower.side if kind is None else self.kinds[kind].side

    def clips(self, call: CallState) -> Sequence[int] | None:
        """Frames of every clip, as the core's call for features says."""
        state = call.state(MllmState)
        return None if state is None else state.clips

    def tiled(self, call: CallState) -> bool:
        """Whether pictures of a packed pass may be tiles, which are traced as pictures later."""
        state = call.state(MllmState)
        return bool(state and state.encoding and self.adapter.tiled(state.encoding))

    def videos(self, call: CallState, images: int, units: int) -> Videos | None:
        """Which frames in the tower's batch are one video, where the plan says that they are.

        Raises:
            UnsupportedCallError: they can't be.
        """
        state = call.state(MllmState)
        if self.owner.plan.images != "frames" or state is None or state.encoding is None:
            return None
        kind, spec = state.encoding, self.adapter.spec()
        _, height, width = call.grid
        grid = (1, height // self.tower.side, width // self.tower.side)
        whole = self.adapter.whole_pictures(kind, [Places(grid)] * images, state.given.ids)
        require_frames(whole, spec.names)
        return videos_of(state.ids(spec), spec.placeholders[kind], images, units, spec.names)

    @property
    def site(self) -> Site:
        """Between this tower and the LLM."""
        return Site.behind(self.tower.used)

    @property
    def removes(self) -> bool:
        """Whether tokens are missing behind it."""
        stages = self.runner.layout.stages
        return bool(stages) and not placement(stages[-1].strategy, "encoder").restores

    def refuse_overlapping(self, kind: str, args: tuple[Any, ...], kwargs: Arguments) -> None:
        """Refuse pictures whose units can't be told apart, before they are encoded.

        Args:
            kind: of the pictures.
            args: what the core calls its method for them with.
            kwargs: the same, by name.

        Raises:
            UnsupportedCallError: naming the picture and why.
        """
        why = self.kinds[kind].blended or self.adapter.overlaps(kind, args, kwargs)
        if why is not None and self._parts:
            raise blended(kind, why)

    def separate(self, kind: str, shown: Sequence[Places], state: EncoderState) -> bool:
        """Whether the units of pictures can be told apart behind the tower.

        Args:
            kind: of the pictures.
            shown: the pictures.
            state: of their pass through the tower.

        Raises:
            UnsupportedCallError: they can't, and the plan removed some or reads their signals.
        """
        why = self.kinds[kind].blended
        if why is None and any(places.blended for places in shown):
            why = "its features are resized, so that every token shows several patches."
        if why is not None and (len(state.index[0]) < math.prod(state.grid) or state.signals):
            raise blended(kind, why)
        return why is None

    def forget(self, call: CallState) -> None:
        """Forget a former pass through a tower."""
        call.drop(EncoderState)
        call.drop(PackedState)

    def arrived(
        self, call: CallState, kind: str, shown: Sequence[Places], device: torch.device
    ) -> list[Arrival]:
        """What the tower's pass left of every picture.

        Args:
            call: the running call.
            kind: of the pictures.
            shown: the pictures.
            device: where their features are.

        Raises:
            UnsupportedCallError: it can't be told, see `separate`, or the tower saw other pictures.
        """
        packed, state = call.state(PackedState), call.state(EncoderState)
        if packed is not None:
            grids, states = packed.packing.grids, pictures_of(packed)
            if packed.stacks[0].state.trace is not call.trace:
                return arrived_tiled(shown, grids, list(states), call.trace, device)
            return arrived_whole(shown, grids, states, device)
        if state is None or not self.separate(kind, shown, state):
            return unseen(shown, call.trace, device)
        if state.videos is not None:
            grids = [call.trace.grids[number] for number in sorted(set(state.images))]
            return arrived_whole(shown, grids, clips_of(state), device)
        return arrived(shown, state, call.trace, device)

    def install(self, patches: Patches) -> None:
        """Override methods of the tower; what leaves a packed one has rows of all units already."""
        self.runner.install(patches)
        if not self.spec.packed and (self.removes or len(self.tower.levels) > 1):
            patches.override(self.tower.module, "forward", self._hand_on)

    def _hand_on(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        call = kwargs[RUNNING] if RUNNING in kwargs else current(self.owner)
        state = None if call is None else call.state(EncoderState)
        if state is None:
            return output

        def whole(hidden: Tensor, depth: int) -> Tensor:
            assert state is not None
            exit_ = state.exits[min(depth, self.spec.used)]
            return exit_.whole(hidden, state.prefix, state.complete)

        return self.adapter.spread(self.tower, output, whole)


def follow(owner: Attachment, adapter: MllmAdapter) -> dict[str, FollowedTower]:
    """The towers through which the plan needs tokens to be followed, by kind of picture.

    Args:
        owner: the attachment.
        adapter: the model's family.

    Raises:
        TokenpruneError: the plan doesn't fit a tower.
    """
    named = {
        kind: one.tower for kind, one in adapter.spec().modalities.items() if one.tower is not None
    }
    if not named or not any(_needs(owner, tower) for tower in named.values()):
        return {}
    built: dict[int, FollowedTower] = {}
    for module in dict.fromkeys(tower.module for tower in named.values()):
        kinds = {kind: tower for kind, tower in named.items() if tower.module is module}
        built[id(module)] = FollowedTower(owner, adapter, kinds)
    return {kind: built[id(tower.module)] for kind, tower in named.items()}


def _needs(owner: Attachment, tower: Tower) -> bool:
    return bool(owner.stages_at("encoder")) or _reads(owner, tower)


def _reads(owner: Attachment, tower: Tower) -> bool:
    """Whether stages in front of the LLM read what is computed in a tower."""
    stages, read = owner.stages_at("pre_llm"), (*BLOCK_VIEWS, *CLASS_VIEWS)
    return bool(wanted(stages, Site.behind(tower.used), *read))


def blended(kind: str, why: str) -> UnsupportedCallError:
    """The error for pictures whose units can't be told apart behind the tower."""
    return UnsupportedCallError(
        f"tokens of this {kind} can't be followed through its tower: {why}",
        where=kind,
        remedy="Use a strategy that restores its tokens, or stages that read nothing of the tower.",
    )
