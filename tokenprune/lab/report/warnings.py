"""What to beware of in a group, each warning once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tokenprune.lab.studies.summary import Group

#: So many plans and more that a warning is about are counted and not named.
MANY = 6


def warnings(group: Group) -> list[tuple[str, str]]:
    """Which plans, and what to beware of with them."""
    about: dict[str, list[str]] = defaultdict(list)
    for row in group.rows:
        for warning in row.warnings:
            about[warning].append(row.name)
    return [(_names(names, len(group.rows)), warning) for warning, names in about.items()]


def notes(group: Group) -> list[str]:
    """Row by row, the numbers of its warnings among those of `warnings`, from 1 on."""
    order = [warning for _, warning in warnings(group)]
    return [", ".join(str(order.index(one) + 1) for one in row.warnings) for row in group.rows]


def _names(names: Sequence[str], rows: int) -> str:
    if len(names) == rows > 1:
        return "every row"
    return f"{len(names)} of {rows} rows" if len(names) >= MANY else ", ".join(names)
