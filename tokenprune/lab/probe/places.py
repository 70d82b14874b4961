"""The places of a multimodal LLM at which visual tokens can be read."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.errors import DataError
from tokenprune.errors.names import suggestion

ENCODER, PROJECTOR, LLM = "encoder", "projector", "llm:"


def parse_places(given: Sequence[str], layers: int, where: str = "--probe") -> tuple[str, ...]:
    """The places meant, in the order in which tokens pass them.

    Args:
        given: `encoder` (what leaves the encoder's feature layer), `projector` (what is handed to
            the LLM), `llm:L` (after layer L, counted from 0) or `all`: both and the LLM's middle
            and last layer.
        layers: layers of the LLM.
        where: the option, for messages.

    Raises:
        DataError: there is no such place.
    """
    usual = (ENCODER, PROJECTOR, *(f"{LLM}{at}" for at in sorted({layers // 2, layers - 1})))
    found: set[str] = set()
    for place in given:
        if place == "all":
            found |= set(usual)
        elif place in (ENCODER, PROJECTOR) or layer_of(place) in range(layers):
            found.add(place)
        else:
            raise DataError(
                f"there is no place '{place}'.",
                where=where,
                remedy=f"{suggestion(place, (*usual, 'all'))} The LLM's layers are 0 to "
                f"{layers - 1}: {LLM}0 to {LLM}{layers - 1}.",
            )
    return tuple(sorted(found, key=_rank))


def layer_of(place: str) -> int | None:
    """The layer of `llm:L`; None for other places."""
    number = place.removeprefix(LLM)
    return int(number) if place.startswith(LLM) and number.isdecimal() else None


def _rank(place: str) -> tuple[int, int]:
    layer = layer_of(place)
    return ((ENCODER, PROJECTOR).index(place), 0) if layer is None else (2, layer)
