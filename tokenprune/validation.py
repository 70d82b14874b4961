"""Pydantic's complaints in this package's words: one error, its key path, the nearest right key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from tokenprune.errors import PlanError, UnknownNameError
from tokenprune.names import suggestion

# Tags of the unions in plan files; pydantic puts them into the path, a reader wouldn't.
UNION_TAGS = frozenset({"tokens", "ratio", "mean_tokens", "named", "numbers", "spec"})

Path = tuple[int | str, ...]


def dotted(path: Iterable[int | str]) -> str:
    """A key path as it is written in overrides: `stages.0.keep`."""
    return ".".join(str(part) for part in path if part not in UNION_TAGS)


def plan_error(
    error: ValidationError,
    *,
    where: str = "",
    keys: Mapping[str, Iterable[str]] | None = None,
    prefix: Path = (),
) -> PlanError:
    """Translate a `ValidationError`.

    Args:
        error: what pydantic raised.
        where: the file or mapping that was read.
        keys: right keys by the name of the key that holds them (`""` at the top).
        prefix: where in the plan the validated mapping stands.

    Returns:
        `UnknownNameError` if the first problem is a key or choice that doesn't exist, `PlanError`
        otherwise; further problems are listed in the message.
    """
    problems = [_problem(detail, keys or {}, prefix) for detail in error.errors()]
    kind, path, message, remedy = problems[0]
    rest = "".join(f" Also {other[1]}: {other[2]}" for other in problems[1:])
    place = ": ".join(part for part in (where, path) if part)
    return kind(message + rest, where=place, remedy=remedy)


def _problem(
    detail: Mapping[str, Any], keys: Mapping[str, Iterable[str]], prefix: Path
) -> tuple[type[PlanError], str, str, str]:
    path: Path = (*prefix, *detail["loc"])
    place = dotted(path)
    if detail["type"] == "extra_forbidden":
        name = str(path[-1])
        parents = [part for part in path[:-1] if isinstance(part, str) and part not in UNION_TAGS]
        known = keys.get(parents[-1] if parents else "", ())
        return UnknownNameError, place, f"unknown key '{name}'.", suggestion(name, known)
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        name = detail["input"]
        return UnknownNameError, place, f"'{name}' is not known here.", suggestion(name, known)
    if detail["type"] == "missing":
        return PlanError, place, f"'{path[-1]}' is missing.", "Add it."
    text = detail["msg"].removeprefix("Value error, ").rstrip(".")
    if detail["type"] == "value_error":
        return PlanError, place, f"{text}.", ""
    text = text[:1].lower() + text[1:]
    return PlanError, place, f"{text}, got {_short(detail['input'])}.", ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
