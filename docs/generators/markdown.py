"""Small pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Data = dict[str, Any]
"""A record, or a part of one."""

MARK = "<!-- written by docs/generate.py from {source}; run it instead of editing this page -->\n"


def row(cells: Iterable[str]) -> str:
    """One line of a table; line breaks and bars inside cells are made harmless."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A table, its last `numbers` columns aligned to the right."""
    left = len(heading) - numbers
    rule = ["---"] * left + ["---:"] * numbers
    return "\n".join([row(heading), row(rule), *(row(cells) for cells in rows), ""])


def percent(found: Mapping[str, float]) -> str:
    """A share with its interval, in percent."""
    value, low, high = (f"{100 * found[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} [{low} {high}]"


def points(found: Mapping[str, float]) -> str:
    """A difference of shares with its interval, in points."""
    # adding zero takes the sign off a rounded -0.0
    rounded = (round(100 * found[key], 1) + 0.0 for key in ("value", "low", "high"))
    value, low, high = (f"{one:+.1f}" for one in rounded)
    return f"{value} [{low} {high}]"
