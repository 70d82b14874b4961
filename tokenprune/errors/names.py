"""Suggesting the name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

#: Letters of the longest name that is looked for, and names that are listed (ours).
LONG, LISTED = 100, 60

#: So many names are suggested at most, and so much less alike than the nearest one (ours).
SEVERAL, LESS = 3, 0.06


def nearest(name: str, known: Iterable[str], alike: float = 0.5) -> str | None:
    """The known name closest to `name`, or None where nothing comes near; see `near_names`."""
    return next(iter(near_names(name, known, alike)), None)


def near_names(name: str, known: Iterable[str], alike: float = 0.5) -> list[str]:
    """The known name closest to `name`, and those that are nearly as close.

    Names are compared letter by letter, so long ones, which nobody misspells, are near to none.

    Args:
        name: as it was written.
        known: those that exist.
        alike: least similarity of the nearest one, from 0 to 1.
    """
    if len(name) > LONG:
        return []
    choices = {choice.lower(): choice for choice in known}
    written = name.lower()
    if written in choices:
        return [choices[written]]
    found = get_close_matches(written, choices, n=SEVERAL, cutoff=alike)
    # the arguments in the order of get_close_matches: the measure depends on it
    likeness = [SequenceMatcher(None, one, written).ratio() for one in found]
    return [
        choices[one]
        for one, like in zip(found, likeness, strict=True)
        if like >= likeness[0] - LESS
    ]


def suggestion(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest ones, and all that exist."""
    choices = sorted(known)
    if not choices:
        return "There are none to choose from."
    *others, near = [f"'{one}'" for one in near_names(name, choices)] or [""]
    near = f"{', '.join(others)} or {near}" if others else near
    more = f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    listed = f"{', '.join(choices[:LISTED])}{more}"
    return f"Did you mean {near}? Known: {listed}." if near else f"Known: {listed}."
