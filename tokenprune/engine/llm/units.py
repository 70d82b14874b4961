"""Units of pictures: as batches that stages are asked about, and back among the core's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.engine.call import CallState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.images import ImageTokens
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


def located(shown: Sequence[Places], *, bare: bool, device: torch.device) -> list[Tensor]:
    """Rows of the features that show the units of every picture.

    Args:
        shown: the pictures, in order.
        bare: whether only units have features, because separators are put in later.
        device: of the features.
    """
    found, start = [], 0
    for places in shown:
        count = places.units if bare else places.count
        units = [at for at in range(count) if bare or at not in places.others]
        found.append(start + torch.tensor(units, device=device))
        start += count
    return found


def entered(
    arrivals: Sequence[Arrival], rows: Sequence[Tensor], features: Tensor, call: CallState
) -> list[ImageBatch]:
    """The pictures of equal grids and numbers of tokens together, numbered by their place.

    Args:
        arrivals: what is left of them, in order.
        rows: see `located`.
        features: `[M, d_llm]`.
        call: the running call.
    """
    alike: dict[tuple[Grid, Shapes, int, int], list[int]] = {}
    for number, one in enumerate(arrivals):
        places = one.places
        key = places.grid, places.parts, places.pieces, len(one.index)
        alike.setdefault(key, []).append(number)
    batches = []
    for (grid, parts, tiles, _), numbers in alike.items():
        mine = [arrivals[number] for number in numbers]
        state = EncoderState(
            {},
            grid,
            [one.number for one in mine],
            0,
            torch.stack([one.size for one in mine]),
            torch.stack([one.index for one in mine]),
            call.plan.seed,
            riders=_stacked([one.riders for one in mine]),
            signals=_stacked([one.signals for one in mine]),
            prefixed=_stacked([one.prefixed for one in mine]),
            trace=call.trace,
        )
        hidden = [features[rows[n][arrivals[n].index]] for n in numbers]
        found = ImageBatch(numbers, state, torch.stack(hidden), parts=parts, tiles=tiles)
        batches.append(found)
    return batches


def _stacked(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in values]) for name in values[0]}


def left(images: Sequence[ImageTokens], batches: Sequence[ImageBatch]) -> list[ImageTokens]:
    """What the batches say is left of the pictures, in order."""
    found = {
        number: replace(images[number], index=one.index, size=one.size, riders=one.riders)
        for batch in batches
        for number, one in zip(batch.rows, images_of(batch), strict=True)
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
