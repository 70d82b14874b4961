"""Numbers that are read of a call in front of it, as an argument of ours among the library's.

They go as text, because `torch.compile` makes a graph for each text, while it takes a number that
changes from call to call for one that may be any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import PackedEncoderAdapter

NUMBERS = "tokenprune_numbers"
"""Name of the argument."""


def text(*rows: Iterable[int]) -> str:
    """Rows of numbers as text."""
    return "|".join(" ".join(map(str, row)) for row in rows)


def numbers(given: Mapping[str, Any]) -> list[list[int]]:
    """The rows of numbers of a call whose arguments by name these are."""
    return [[int(number) for number in row.split()] for row in given[NUMBERS].split("|")]


def with_numbers(
    adapter: PackedEncoderAdapter, args: tuple[Any, ...], kwargs: Arguments
) -> Mapping[str, Any]:
    """The arguments by name with the numbers, which a call of `forward` by itself comes without."""
    return kwargs if NUMBERS in kwargs else adapter.foreseen(args, kwargs)[1]


def without(given: Mapping[str, Any]) -> dict[str, Any]:
    """The library's own arguments."""
    return {name: value for name, value in given.items() if name != NUMBERS}
