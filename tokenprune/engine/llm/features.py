"""Where the core asks for the features of its pictures: what there is to prune behind a tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.call import CallState, current
from tokenprune.engine.checks import refuse_signals
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.images import ImageTokens, count_pictures
from tokenprune.engine.llm.state import MllmState, state_of
from tokenprune.engine.patching import Patches
from tokenprune.engine.pre_llm.projector import images_of
from tokenprune.engine.pre_llm.stages import ImageBatch, count_left, run_stages
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment

SITE = Site("pre_llm", 0, 0)
"""Between tower and LLM; no block of the tower is followed."""


class FeatureSeam:
    """The pictures of a model as its core gets them, of any number and size.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
    """

    encoder: EncoderRunner | None = None

    def __init__(self, owner: Attachment, adapter: MllmAdapter) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, adapter.spec()
        self.stages = owner.stages_at("pre_llm")
        for stage in self.stages:
            refuse_signals(stage, [SITE], frozenset(), adapter)

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
            shown = self.adapter.places(kind, args, kwargs, made)
            return self._enter(call, state, kind, made, shown)

        return make

    def _kind(self, method: str, state: MllmState) -> str:
        """Which pictures a call of a method is for, if it serves several kinds."""
        kinds = [name for name, one in self.spec.modalities.items() if one.method == method]
        given = [name for name in kinds if name in state.given.kinds]
        new = [name for name in given if name not in state.pictures]
        return (new or given[-1:] or kinds)[0]

    def _enter(
        self, call: CallState, state: MllmState, kind: str, made: Any, shown: list[Places]
    ) -> Any:
        """Note the pictures, and let the stages between tower and LLM have them."""
        features = self.adapter.features(made)
        images = [
            ImageTokens.whole(call.trace.begin(1, places.grid)[0], places, features.device)
            for places in shown
        ]
        frames = sum(image.grid[0] for image in images)
        units = sum(image.patches for image in images)
        call.meter.count("units", units, frames)
        if self.stages:
            bare = sum(image.count for image in images) != len(features)
            rows = located(images, bare=bare)
            batches = self._run(call, entered(images, rows, features, call.plan.seed))
            count_left(call, batches)
            images = left(images, batches)
            if not all(image.complete for image in images):
                made = self.adapter.with_features(made, replaced(features, rows, batches))
        state.pictures[kind] = images
        count_pictures(call.meter, images)
        if not self.owner.stages:
            call.meter.count("llm_average", units, frames)
        return made

    def _run(self, call: CallState, batches: list[ImageBatch]) -> list[ImageBatch]:
        for stage in self.stages:
            for batch in batches:
                count, grid = batch.state.index.shape[1], batch.state.grid
                keep, given = stage.keep(count, frames=grid[0]), stage.plan.keep is not None
                stage.strategy.check(SITE, Budget(count, keep, given), grid)
            batches = run_stages(call, [stage], batches, SITE.layer)
        return batches


def located(images: Sequence[ImageTokens], *, bare: bool) -> list[Tensor]:
    """Rows of the features that show the units of every picture.

    Args:
        images: in order, whole.
        bare: whether only units have features, because separators are put in later.
    """
    found, start = [], 0
    for image in images:
        found.append(start + (image.index if bare else image.shown()))
        start += image.patches if bare else image.count
    return found


def entered(
    images: Sequence[ImageTokens], rows: Sequence[Tensor], features: Tensor, seed: int
) -> list[ImageBatch]:
    """The pictures of equal grids together, numbered by their place among all.

    Args:
        images: in order, whole.
        rows: see `located`.
        features: `[M, d_llm]`.
        seed: the plan's.
    """
    alike: dict[tuple[int, int, int], list[int]] = {}
    for number, image in enumerate(images):
        alike.setdefault(image.grid, []).append(number)
    batches = []
    for grid, numbers in alike.items():
        index = torch.stack([images[number].index for number in numbers])
        size = torch.stack([images[number].size for number in numbers])
        state = EncoderState({}, grid, [images[n].number for n in numbers], 0, size, index, seed)
        hidden = torch.stack([features[rows[number]] for number in numbers])
        batches.append(ImageBatch(numbers, state, hidden))
    return batches


def left(images: Sequence[ImageTokens], batches: Sequence[ImageBatch]) -> list[ImageTokens]:
    """What the batches say is left of the pictures, in order."""
    found = {
        number: replace(image, others=images[number].others)
        for batch in batches
        for number, image in zip(batch.rows, images_of(batch), strict=True)
    }
    return [found[number] for number in sorted(found)]


def replaced(features: Tensor, rows: Sequence[Tensor], batches: Sequence[ImageBatch]) -> Tensor:
    """The features with zeros for removed units and the survivors' states in their places.

    Args:
        features: `[M, d_llm]` as they were.
        rows: see `located`.
        batches: what is left.
    """
    new = features.index_fill(0, torch.cat(list(rows)), 0)
    for batch in batches:
        for number, index, hidden in zip(batch.rows, batch.state.index, batch.hidden, strict=True):
            new = new.index_put((rows[number][index],), hidden.to(new.dtype))
    return new
