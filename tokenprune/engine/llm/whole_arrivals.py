"""What is left of each picture or clip behind a tower whose pass knew them as such."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.llm.arrivals import Arrival
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Grid


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
        raise UnsupportedCallError(
            f"the pictures have units of {mine}, and the tower saw {list(grids)}.",
            where="features",
            remedy="Use an adapter that knows this model.",
        )
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
