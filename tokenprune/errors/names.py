"""Suggesting the name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: Letters of the longest name that is looked for, and names that are listed (ours).
LONG, LISTED = 100, 60


def nearest(name: str, known: Iterable[str], alike: float = 0.5) -> str | None:
    """The known name closest to `name`, or None where nothing comes near.

    Names are compared letter by letter, so long ones, which nobody misspells, are near to none.

    Args:
        name: as it was written.
        known: those that exist.
        alike: least similarity of a near one, from 0 to 1.
    """
    if len(name) > LONG:
        return None
    choices = {choice.lower(): choice for choice in known}
    found = get_close_matches(name.lower(), choices, n=1, cutoff=alike)
    return choices[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest one, and all that exist."""
    choices = sorted(known)
    if not choices:
        return "There are none to choose from."
    near = nearest(name, choices)
    more = f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    listed = f"{', '.join(choices[:LISTED])}{more}"
    return f"Did you mean '{near}'? Known: {listed}." if near else f"Known: {listed}."
