"""What is left of each picture or clip behind a tower whose pass knew them as such."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.llm.arrivals import Arrival
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Grid
from tokenprune.interface.trace import Origin, Trace


def arrived_whole(
    shown: Sequence[Places],
    grids: Sequence[Grid],
    states: Iterable[EncoderState],
    device: torch.device,
) -> list[Arrival]:
    """What a tower's pass left of every picture; the trace knows the pictures already.

    Args:
        shown: the pictures, in the order of the call.
        grids: of those that the tower saw.
        states: of the pass, each of some whole pictures.
        device: where their features are.

    Raises:
        UnsupportedCallError: the tower saw other pictures.
    """
    mine = [places.grid for places in shown]
    if mine != list(grids):
        raise _other(mine, grids)
    left = {
        number: (pictures, row) for pictures in states for row, number in enumerate(pictures.images)
    }
    found = []
    for places, number in zip(shown, sorted(left), strict=True):
        one, row = left[number]
        found.append(
            Arrival(
                number,
                places,
                one.index[row].to(device),
                one.size[row].to(device),
                {name: value[row].to(device) for name, value in one.riders.items()},
                {name: value[row].to(device) for name, value in one.signals.items()},
                {name: value[row].to(device) for name, value in one.prefixed.items()},
            )
        )
    return found


def arrived_tiled(
    shown: Sequence[Places],
    grids: Sequence[Grid],
    states: Sequence[EncoderState],
    trace: Trace,
    device: torch.device,
) -> list[Arrival]:
    """What a packed pass left of every picture, of which it saw the tiles as pictures.

    Args:
        shown: the pictures, in the order of the call.
        grids: of the tiles.
        states: of the pass, each of some tiles.
        trace: of the call; the pictures are added to it.
        device: where their features are.

    Raises:
        UnsupportedCallError: the tower saw other tiles.
    """
    tiles = [Places(grid) for grid in grids]
    if sum(places.pieces for places in shown) != len(tiles):
        raise _other([places.grid for places in shown], grids)
    waiting = iter(zip(tiles, arrived_whole(tiles, grids, states, device), strict=True))
    found, start = [], 0
    for places in shown:
        mine = [next(waiting) for _ in range(places.pieces)]
        ahead = [0, *accumulate(tile.units for tile, _ in mine)]
        if ahead[-1] != places.units:
            raise _other([places.grid], [tile.grid for tile, _ in mine])
        origin = Origin(states[0].trace, torch.arange(start, start + places.units, device="cpu"))
        start += places.units
        pairs = list(zip([one for _, one in mine], ahead, strict=False))
        found.append(
            Arrival(
                trace.begin(1, places.grid, origin, places.parts)[0],
                places,
                torch.cat([arrival.index + first for arrival, first in pairs]),
                torch.cat([arrival.size for arrival, _ in pairs]),
                _together([arrival.riders for arrival, _ in pairs]),
                _together([arrival.signals for arrival, _ in pairs]),
            )
        )
    return found


def _together(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Values of the tokens of all tiles, one tile behind the other, which every tile has."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: torch.cat([part[name] for part in parts]) for name in shared}


def pictures_of(state: PackedState) -> Iterator[EncoderState]:
    """The states of whole pictures behind a packed tower; clips are put together from frames."""
    for stack in state.stacks:
        yield from clips_of(stack.state)


def clips_of(state: EncoderState) -> Iterator[EncoderState]:
    """The states of whole clips, from that of their frames; pictures as they are."""
    if state.videos is None:
        yield state
        return
    for bucket in state.videos.buckets():
        yield state.of_videos(bucket)


def _other(shown: Sequence[Grid], seen: Sequence[Grid]) -> UnsupportedCallError:
    return UnsupportedCallError(
        f"the pictures have units of {list(shown)}, and the tower saw {list(seen)}.",
        where="features",
        remedy="Use an adapter that knows this model.",
    )
