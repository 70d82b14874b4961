"""Dotted overrides: `stages.0.keep=64`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenprune.errors import PlanError
from tokenprune.plan.read import parse

Overrides = Sequence[str] | Mapping[str, Any]


def overridden(data: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A copy of plan data with overrides applied, in their order.

    Args:
        data: the plan as plain data.
        overrides: `"path=value"` strings, whose values are read as YAML, or path -> value.

    Raises:
        PlanError: an override is malformed or names a list element that isn't there.
    """
    result = copy.deepcopy(data)
    for path, value in _pairs(overrides):
        _put(result, path, value)
    return result


def _pairs(overrides: Overrides) -> Iterable[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return overrides.items()
    if isinstance(overrides, str):
        overrides = [overrides]
    return [_parsed(text) for text in overrides]


def _parsed(text: str) -> tuple[str, Any]:
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise PlanError(f"the override '{text}' sets nothing.", remedy="Write 'stages.0.keep=64'.")
    return path.strip(), parse(value, f"override '{text}'")


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    place = f"override '{path}'"
    holder: Any = data
    parts = path.split(".")
    for number, part in enumerate(parts):
        if not part:
            raise PlanError("a part of the path is empty.", where=place)
        final = number == len(parts) - 1
        key: Any = _index(holder, part, place) if isinstance(holder, list | tuple) else part
        if not isinstance(holder, list | dict):
            before = ".".join(parts[:number])
            raise PlanError(f"'{before}' holds no keys, it is {holder!r}.", where=place)
        if final:
            holder[key] = value
            return
        if isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
        if isinstance(holder[key], tuple):
            holder[key] = list(holder[key])
        holder = holder[key]


def _index(holder: Sequence[Any], part: str, place: str) -> int:
    if not part.isdecimal() or int(part) >= len(holder):
        known = f"0 to {len(holder) - 1}" if holder else "none"
        raise PlanError(
            f"there is no element '{part}' in the list.", where=place, remedy=f"There are: {known}."
        )
    return int(part)
