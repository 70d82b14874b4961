"""What is left of each picture behind a tower that saw it in pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.lines import each, starts
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.places import Places
from tokenprune.interface.trace import Origin, Trace


@dataclass(frozen=True)
class Arrival:
    """What is left of one picture.

    Attributes:
        number: the picture's number in the trace.
        places: its placeholders.
        index: `[K]` units whose places the survivors hold.
        size: `[K]` patches that each survivor stands for.
        riders: `[K, ...]` values left by earlier stages.
        signals: `[K, ...]` what pre-LLM stages asked for.
        prefixed: `[P, ...]` the same of class and register tokens; of a picture in tiles, those of
            the one that shows it whole (ours).
    """

    number: int
    places: Places
    index: Tensor
    size: Tensor
    riders: Mapping[str, Tensor] = field(default_factory=dict)
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    prefixed: Mapping[str, Tensor] = field(default_factory=dict)


def unseen(shown: Sequence[Places], trace: Trace, device: torch.device) -> list[Arrival]:
    """Whole pictures, of which no tower told anything.

    Args:
        shown: the pictures.
        trace: of the call; they are added to it.
        device: where their features are.
    """
    units = [places.units for places in shown]
    # of all pictures views: further ones cost no operations
    index = torch.arange(max(units, default=0), device=device)
    sizes = torch.split(torch.ones(sum(units), device=device), units)
    found = []
    for places, size in zip(shown, sizes, strict=True):
        (number,) = trace.begin(1, places.grid, parts=places.parts)
        found.append(Arrival(number, places, index[: places.units], size))
    return found


def arrived(
    shown: Sequence[Places], state: EncoderState, trace: Trace, device: torch.device
) -> list[Arrival]:
    """What a tower's pass left of every picture.

    Args:
        shown: the pictures, none of them blended.
        state: of the pass.
        trace: of the call; the pictures are added to it, with what the pass did.
        device: where their features are.

    Raises:
        UnsupportedCallError: the pictures are not made of the pieces that the tower saw.
    """
    count = math.prod(state.grid)
    sources = _sources(shown, len(state.images), count)
    token: Tensor | None = None
    if any(places.sources is not None for places in shown):
        index, token, counts = _looked_up(state, count, sources)
        token = token.to(device)
    else:
        # pieces that no other picture shares: their tokens stand one behind the other
        index, counts = _running(state, count, shown)

    def by_picture(values: Tensor) -> Sequence[Tensor]:
        line = values.flatten(0, 1).to(device)
        return torch.split(line if token is None else line[token], counts)

    size, units = by_picture(state.size), torch.split(index.to(device), counts)
    riders = {name: by_picture(value) for name, value in state.riders.items()}
    signals = {name: by_picture(value) for name, value in state.signals.items()}
    found = []
    for number, (places, own) in enumerate(zip(shown, sources, strict=True)):
        overview = int(own[0]) // count + places.overview
        origin = Origin(state.trace, own) if state.trace.records else None
        found.append(
            Arrival(
                trace.begin(1, places.grid, origin, places.parts)[0],
                places,
                units[number],
                size[number],
                {name: value[number] for name, value in riders.items()},
                {name: value[number] for name, value in signals.items()},
                {name: value[overview].to(device) for name, value in state.prefixed.items()},
            )
        )
    return found


def _running(state: EncoderState, count: int, shown: Sequence[Places]) -> tuple[Tensor, list[int]]:
    """Units that are left of pictures of whole pieces, `[n]`, and how many of each picture.

    Args:
        state: of the pass.
        count: units of a piece.
        shown: the pictures.
    """
    pieces = [places.units // count for places in shown]
    counts = [number * state.index.shape[1] for number in pieces]
    behind = each(
        [piece * count for number in pieces for piece in range(number)],
        [state.index.shape[1]] * len(state.index),
        state.index.device,
    )
    return state.index.flatten() + behind, counts


def _looked_up(
    state: EncoderState, count: int, sources: Sequence[Tensor]
) -> tuple[Tensor, Tensor, list[int]]:
    """Units that are left of pictures whose pieces are arranged, their tokens, and how many.

    Args:
        state: of the pass.
        count: units of a piece.
        sources: of each picture the numbers of its units among those of all pieces, on the CPU.

    Returns:
        `[n]` units of their own pictures and `[n]` numbers of tokens among those of all pieces,
        on the CPU, one picture behind the other; and how many of each picture.
    """
    batch = len(state.index)
    first = torch.arange(batch, device=state.index.device)[:, None] * count
    holder = _holders((state.index + first).flatten(), batch * count)[torch.cat(list(sources))]
    there = (holder >= 0).nonzero()[:, 0]
    units = [len(own) for own in sources]
    ends = torch.tensor(starts([*units, 0]), device="cpu")
    edges = torch.searchsorted(there, ends).tolist()
    counts = [end - start for start, end in pairwise(edges)]
    return there - each(starts(units), counts, there.device), holder[there], counts


def _sources(shown: Sequence[Places], pieces: int, count: int) -> list[Tensor]:
    """For every picture the numbers of its units among those of all pieces, on the CPU."""
    if all(places.sources is not None for places in shown):
        return [places.sources.cpu() for places in shown if places.sources is not None]
    units = sum(places.units for places in shown)
    if units != pieces * count or any(places.units % count for places in shown):
        raise UnsupportedCallError(
            f"the pictures have {units} units, and the tower saw {pieces} pieces of {count}.",
            where="features",
            remedy="Use an adapter that knows this model.",
        )
    return list(torch.split(torch.arange(units, device="cpu"), [places.units for places in shown]))


def _holders(unit: Tensor, total: int) -> Tensor:
    """For every unit the number of the token that holds its place, or -1, on the CPU."""
    unit = unit.cpu()
    return torch.full((total,), -1, device="cpu").scatter(
        0, unit, torch.arange(len(unit), device="cpu")
    )
