"""What is left of each picture behind a tower that saw it in pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenprune.engine.encoder.state import EncoderState
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
    found = []
    for places in shown:
        (number,) = trace.begin(1, places.grid, parts=places.parts)
        index = torch.arange(places.units, device=device)
        found.append(Arrival(number, places, index, torch.ones(places.units, device=device)))
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
    batch, kept = state.index.shape
    first = torch.arange(batch, device=state.index.device)[:, None] * count
    unit = (state.index + first).flatten()
    holder = _holders(unit, batch * count) if any(s.sources is not None for s in shown) else None
    flat = _flat(state, device)
    found, behind = [], 0
    for places, own in zip(shown, sources, strict=True):
        piece = int(own[0]) // count
        origin = Origin(state.trace, own) if state.trace.records else None
        (number,) = trace.begin(1, places.grid, origin, places.parts)
        if holder is None:
            # pieces that no other picture shares: their tokens are a slice, and none is looked up
            token: slice | Tensor = slice(behind, behind + places.units // count * kept)
            index = unit[token] - piece * count
            behind += places.units // count * kept
        else:
            index = (holder[own] >= 0).nonzero()[:, 0]
            token = holder[own][index].to(device)
        found.append(
            Arrival(
                number,
                places,
                index.to(device),
                flat["size"][""][token],
                {name: value[token] for name, value in flat["riders"].items()},
                {name: value[token] for name, value in flat["signals"].items()},
                {
                    name: value[piece + places.overview].to(device)
                    for name, value in state.prefixed.items()
                },
            )
        )
    return found


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
    found, start = [], 0
    for places in shown:
        found.append(torch.arange(start, start + places.units))
        start += places.units
    return found


def _holders(unit: Tensor, total: int) -> Tensor:
    """For every unit the number of the token that holds its place, or -1, on the CPU."""
    unit = unit.cpu()
    return torch.full((total,), -1).scatter(0, unit, torch.arange(len(unit)))


def _flat(state: EncoderState, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Values per token of all pieces, one after the other."""
    kept = {"size": {"": state.size}, "riders": state.riders, "signals": state.signals}
    return {
        what: {name: value.flatten(0, 1).to(device) for name, value in values.items()}
        for what, values in kept.items()
    }
