"""What is left of each picture behind a packed tower, which sees whole pictures and clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.llm.arrivals import Arrival
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.places import Places


def arrived_whole(
    shown: Sequence[Places], state: PackedState, device: torch.device
) -> list[Arrival]:
    """What a packed tower's pass left of every picture; the trace knows the pictures already.

    Args:
        shown: the pictures, in the order of the call.
        state: of the pass.
        device: where their features are.

    Raises:
        UnsupportedCallError: the tower saw other pictures.
    """
    grids = [places.grid for places in shown]
    if grids != list(state.packing.grids):
        raise UnsupportedCallError(
            f"the pictures have units of {grids}, and the tower saw {list(state.packing.grids)}.",
            where="features",
            remedy="Use an adapter that knows this model.",
        )
    left = {
        number: (pictures, row)
        for pictures in _pictures(state)
        for row, number in enumerate(pictures.images)
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
            )
        )
    return found


def _pictures(state: PackedState) -> Iterator[EncoderState]:
    """The states of whole pictures; clips are put together from their frames."""
    for stack in state.stacks:
        videos = stack.state.videos
        if videos is None:
            yield stack.state
            continue
        for bucket in videos.buckets():
            yield stack.state.of_videos(bucket)
