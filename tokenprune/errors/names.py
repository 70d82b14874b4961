"""Suggesting the name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None where nothing comes near."""
    choices = {choice.lower(): choice for choice in known}
    found = get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    return choices[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest one, and all that exist."""
    choices = sorted(known)
    if not choices:
        return "There are none to choose from."
    near = nearest(name, choices)
    listed = ", ".join(choices)
    return f"Did you mean '{near}'? Known: {listed}." if near else f"Known: {listed}."
