"""Units of pictures: as batches that stages are asked about, and back among the core's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune.engine.call import CallState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.images import ImageTokens
from tokenprune.engine.lines import each, flat, joined, sent, stacked, starts
from tokenprune.engine.llm.arrivals import Arrival
from tokenprune.engine.pre_llm.projector import images_of
from tokenprune.engine.pre_llm.stages import ImageBatch
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Grid
from tokenprune.interface.trace import Shapes


def image_of(arrival: Arrival) -> ImageTokens:
    """What is left of a picture in front of the LLM, before stages that stand there."""
    places = arrival.places
    return ImageTokens(
        arrival.number,
        places.grid,
        0,
        arrival.index,
        arrival.size,
        arrival.riders,
        others=places.others,
        parts=places.parts,
        tiles=places.pieces,
    )


@dataclass(frozen=True)
class Located:
    """Where the features show the units of all pictures.

    Attributes:
        rows: `[U]` rows of the features, one picture behind the other; None where every row shows
            a unit.
        starts: units in front of each picture.
    """

    rows: Tensor | None
    starts: Sequence[int]

    @classmethod
    def of(cls, shown: Sequence[Places], *, bare: bool, device: torch.device) -> Located:
        """The rows of pictures.

        Args:
            shown: the pictures, in order.
            bare: whether only units have features, because separators are put in later.
            device: of the features.
        """
        first = starts([places.units if bare else places.count for places in shown])
        others = [
            start + at
            for start, places in zip(first, shown, strict=True)
            for at in places.others
            if not bare
        ]
        units = [places.units for places in shown]
        if not others:
            return cls(None, starts(units))
        shows = torch.ones(sum(units) + len(others), dtype=torch.bool, device="cpu")
        shows = shows.index_fill(0, torch.tensor(others, device="cpu"), False)
        return cls(sent(shows.nonzero()[:, 0], device), starts(units))

    def find(self, index: Tensor, numbers: Sequence[int], counts: Sequence[int]) -> Tensor:
        """Rows of the features that show some units.

        Args:
            index: `[n]` units of their own pictures, one picture behind the other.
            numbers: of these pictures.
            counts: units of each.
        """
        if len(self.starts) > 1:
            index = index + each([self.starts[n] for n in numbers], counts, index.device)
        return index if self.rows is None else self.rows[index]


def image_batches(
    arrivals: Sequence[Arrival], located: Located, features: Tensor, call: CallState
) -> list[ImageBatch]:
    """The pictures of equal grids and numbers of tokens together, numbered by their place.

    Args:
        arrivals: what is left of them, in order.
        located: where the features show them.
        features: `[M, d_llm]`.
        call: the running call.
    """
    if not arrivals:
        return []
    alike: dict[tuple[Grid, Shapes, int, int], list[int]] = {}
    for number, one in enumerate(arrivals):
        places = one.places
        key = places.grid, places.parts, places.pieces, len(one.index)
        alike.setdefault(key, []).append(number)
    groups = list(alike.values())
    every = [number for numbers in groups for number in numbers]
    index = joined([arrivals[number].index for number in every])
    counts = [len(arrivals[number].index) for number in every]
    hidden = features[located.find(index, every, counts)]
    shapes = [(len(numbers), count) for (*_, count), numbers in alike.items()]

    def lined(values: Sequence[Tensor]) -> list[Tensor]:
        return stacked(joined([values[number] for number in every]), shapes)

    carried = zip(
        lined([arrival.size for arrival in arrivals]),
        stacked(index, shapes),
        stacked(hidden, shapes),
        _grouped([arrival.riders for arrival in arrivals], groups),
        _grouped([arrival.signals for arrival in arrivals], groups),
        _grouped([arrival.prefixed for arrival in arrivals], groups),
        strict=True,
    )
    batches = []
    for (key, numbers), mine in zip(alike.items(), carried, strict=True):
        grid, parts, tiles, _ = key
        size, own, states, riders, signals, prefixed = mine
        state = EncoderState(
            sites={},
            grid=grid,
            images=[arrivals[number].number for number in numbers],
            prefix=0,
            size=size,
            index=own,
            seed=call.plan.seed,
            riders=riders,
            signals=signals,
            prefixed=prefixed,
            trace=call.trace,
        )
        batches.append(ImageBatch(numbers, state, states, parts=parts, tiles=tiles))
    return batches


def _grouped(
    values: Sequence[Mapping[str, Tensor]], groups: Sequence[Sequence[int]]
) -> list[dict[str, Tensor]]:
    """Values `[K, ...]` of every picture as batches of groups, `[b, K, ...]`, by name."""
    found: list[dict[str, Tensor]] = [{} for _ in groups]
    for name in dict.fromkeys(name for one in values for name in one):
        have = [g for g, group in enumerate(groups) if all(name in values[n] for n in group)]
        own = [values[number][name] for group in have for number in groups[group]]
        shapes = [(len(groups[group]), len(values[groups[group][0]][name])) for group in have]
        for group, part in zip(have, stacked(torch.cat(own), shapes) if own else (), strict=True):
            found[group][name] = part
    return found


def left(images: Sequence[ImageTokens], batches: Sequence[ImageBatch]) -> list[ImageTokens]:
    """What the batches say is left of the pictures, in order."""
    found = {
        number: replace(images[number], index=one.index, size=one.size, riders=one.riders)
        for batch in batches
        for number, one in zip(batch.rows, images_of(batch), strict=True)
    }
    return [found[number] for number in sorted(found)]


def replaced(features: Tensor, located: Located, batches: Sequence[ImageBatch]) -> Tensor:
    """The features with zeros for removed units and the survivors' states in their places.

    Args:
        features: `[M, d_llm]` as they were.
        located: where they show the units.
        batches: what is left.
    """
    numbers = [number for batch in batches for number in batch.rows]
    counts = [batch.state.index.shape[1] for batch in batches for _ in batch.rows]
    rows = located.find(flat([batch.state.index for batch in batches]), numbers, counts)
    hidden = flat([batch.hidden.to(features.dtype) for batch in batches])
    bare = located.rows
    empty = torch.zeros_like(features) if bare is None else features.index_fill(0, bare, 0)
    return empty.index_copy(0, rows, hidden)
