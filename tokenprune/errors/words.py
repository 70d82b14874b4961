"""Numbers, kinds of values and names in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Values of data files, as people call them.
KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}


#: Most letters of what another library says that are repeated (ours).
REPEATED = 200


def first_line(error: BaseException) -> str:
    """The first line of what an error says, cut between words if it is long; else its class."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if len(said) <= REPEATED:
        return said
    whole, _, _ = said[:REPEATED].rpartition(" ")
    return f"{whole or said[:REPEATED]} ..."


def indefinite(name: str) -> str:
    """A name behind its article: `a list`, `an int`."""
    return f"an {name}" if name[:1].lower() in tuple("aeiou") else f"a {name}"


def kind_of(value: Any) -> str:
    """What a value of a data file is, in words."""
    return KINDS.get(type(value), indefinite(type(value).__name__))


def counted(number: int, noun: str, plural: str = "") -> str:
    """So many of them: `1 row`, `2 rows`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def these(number: int, noun: str) -> str:
    """Those at hand: `this picture`, `these 2 pictures`."""
    return f"this {noun}" if number == 1 else f"these {counted(number, noun)}"


def verdict(held: int, failed: int, idle: int | None = None) -> str:
    """How many rows of a check hold and fail, and how many don't apply, where there are such."""
    parts = [f"{counted(held, 'row')} {'holds' if held == 1 else 'hold'}"]
    parts.append(f"{failed} {'fails' if failed == 1 else 'fail'}")
    if idle is not None:
        parts.append(f"{idle} {'does' if idle == 1 else 'do'}n't apply")
    return ", ".join(parts)
