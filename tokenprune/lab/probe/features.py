"""The probe on models whose core makes the features of pictures of any number and size.

What the model sees of a prompt, be it a picture, its tiles or the frames of a clip, are maps of
units. They stand on one grid as strategies see them: each map a frame as large as the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current_state
from tokenprune.engine.images import ImageTokens, shown
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.maps import Maps
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import DataError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid
from tokenprune.interface.tokens import grid_positions
from tokenprune.lab.probe.look import NUMBER, Look, Seen, with_look
from tokenprune.lab.probe.places import ENCODER, PROJECTOR
from tokenprune.lab.probe.seams import Found, Seam, Stages
from tokenprune.plan import Plan


class FeatureSeam(Seam):
    """The methods of the core that make features of pictures.

    The encoder's features of a unit are the mean over its patches (ours): side by side those of a
    pooled square would be wider than anything could be fitted to.

    Args:
        adapter: the model's family, which follows a tower.
        encoder: whether what leaves the encoder is read.
    """

    def __init__(self, adapter: MllmAdapter, encoder: bool) -> None:
        self._adapter, self._spec, self._encoder = adapter, adapter.spec(), encoder
        towers = [one.tower for one in self._spec.modalities.values() if one.tower is not None]
        used = min(tower.used for tower in towers)
        encoders = [choose_encoder(tower.module, tower.encoder) for tower in towers]
        self._blocks = [encoder.spec().blocks for encoder in encoders]
        count = min(len(blocks) for blocks in self._blocks)
        self._block = max(min(count - 2, used - 1), 0)
        self._look: Look | None = None
        self._maps: Maps | None = None
        self._dense = False
        self._target: list[Tensor] = []

    @property
    def grid(self) -> Grid:
        """Every map as a frame."""
        assert self._maps is not None, "nothing was read so far"
        return self._maps.grid

    @property
    def shown(self) -> Tensor | None:
        """Places that a map smaller than the largest leaves empty are False."""
        assert self._maps is not None, "nothing was read so far"
        frames, height, width = self.grid
        shown = torch.zeros(frames * height * width, dtype=torch.bool)
        shown[self._maps.raster(torch.arange(self._units))] = True
        return None if bool(shown.all()) else shown.view(frames, height * width)

    @property
    def _units(self) -> int:
        assert self._maps is not None
        return sum(rows * columns for rows, columns in self._maps.shapes)

    @property
    def _own(self) -> Signal:
        return Signal.HIDDEN.at(self._block)

    def stages(self, plan: Plan, stages: list[ResolvedStage]) -> Stages:
        """With one that looks where features are wanted, or there is none at all."""
        wanted = [self._own] * self._dense + [Signal.HIDDEN] * self._encoder
        self._look = Look(wanted) if wanted or not stages else None
        return (plan, stages) if self._look is None else with_look(plan, stages, self._look)

    def watch(self, attachment: Attachment, found: Found) -> None:
        """What leaves the encoder, and what the core is handed by its own method."""

        def make(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            state = current_state(attachment, MllmState)
            # a method for clips may call that for images
            if state is not None and state.encoding is None:
                self._read(state, made, found)
            return made

        for method in dict.fromkeys(one.method for one in self._spec.modalities.values()):
            attachment.patches.override(self._spec.core, method, make)

    @contextmanager
    def features(self) -> Iterator[Callable[[], Tensor]]:
        """Means over the patches of every unit, of the last block but one that is read."""
        widths: list[int] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            widths.append(hidden.shape[-1])

        handles = [blocks[self._block].register_forward_hook(keep) for blocks in self._blocks]
        self._dense, self._target = True, []
        try:
            yield lambda: self._joined(widths[0])
        finally:
            self._dense = False
            for handle in handles:
                handle.remove()

    def _joined(self, width: int) -> Tensor:
        """Features of all prompts, at the places of the grid; zeros where no unit stands."""
        assert self._maps is not None
        frames, height, columns = self.grid
        units = torch.stack(self._target)
        means = torch.unflatten(units, -1, (-1, width)).mean(dim=-2)
        room = means.new_zeros(len(means), frames * height * columns, width)
        place = self._maps.raster(torch.arange(self._units, device=means.device))
        return torch.unflatten(room.index_copy(1, place, means), 1, (frames, -1))

    def _read(self, state: MllmState, made: Any, found: Found) -> None:
        """Note the pictures of one kind, prompt by prompt."""
        if len(state.pictures) != 1 or state.given.ids is None:
            raise _uneven("the prompts show pictures of several kinds")
        (images,) = state.pictures.values()
        features = self._adapter.features(made)
        bare = sum(image.count for image in images) != len(features)
        rows, first = [], 0
        for image in images:
            rows.append(features[first + (image.index if bare else shown([image]))])
            first += image.patches if bare else image.count
        each, rest = divmod(len(images), state.given.ids.shape[0])
        if rest or not each:
            raise _uneven(f"{state.given.ids.shape[0]} prompts show {len(images)} pictures")
        for at in range(0, len(images), each):
            mine = slice(at, at + each)
            self._prompt(images[mine], torch.cat(rows[mine]), found)

    def _prompt(self, images: list[ImageTokens], hidden: Tensor, found: Found) -> None:
        """Note one prompt's pictures, of which `hidden` `[K, d]` is handed to the LLM."""
        maps = Maps(tuple(shape for image in images for shape in _shapes(image)))
        if self._maps is not None and maps != self._maps:
            raise _uneven(f"a prompt's pictures are maps of {maps.shapes} and {self._maps.shapes}")
        self._maps = maps
        if PROJECTOR in found:
            found[PROJECTOR].append((hidden, self._places(images, [one.index for one in images])))
        if self._look is None or not self._look.seen:
            return
        # every token carries its picture's number, so pictures are found whatever was left of them
        seen = [self._look.seen[int(one.riders[NUMBER][0])] for one in images]
        if ENCODER in found:
            left = torch.cat([one.signals[Signal.HIDDEN.name] for one in seen])
            found[ENCODER].append((left, self._places(images, [one.index for one in seen])))
        if self._dense:
            self._target.append(_whole(seen, self._own.name))

    def _places(self, images: list[ImageTokens], index: list[Tensor]) -> Tensor:
        """(t, h, w) on the grid of the tokens at `index` of every picture, `[K, 3]`."""
        assert self._maps is not None
        line, before = [], 0
        for image, one in zip(images, index, strict=True):
            line.append(one + before)
            before += image.patches
        return grid_positions(self.grid, self._maps.raster(torch.cat(line)))


def _shapes(image: ImageTokens) -> tuple[tuple[int, int], ...]:
    return image.parts or (image.grid[1:],) * image.grid[0]


def _whole(seen: list[Seen], name: str) -> Tensor:
    return torch.cat([one.signals[name] for one in seen])


def _uneven(why: str) -> DataError:
    return DataError(
        f"the probe is fitted to one grid, and {why}.",
        where="--probe",
        remedy="Ask about pictures of one size, as many in every prompt.",
    )
