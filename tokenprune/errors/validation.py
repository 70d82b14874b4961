"""Pydantic's complaints in this package's words: one error, its key path, the nearest right key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tokenprune.errors import PlanError, UnknownNameError
from tokenprune.errors.names import nearest, suggestion
from tokenprune.errors.words import counted

Path = tuple[int | str, ...]
Keys = Mapping[str, Iterable[str]]

#: Further problems that a message names (ours).
NAMED = 10


@dataclass
class _Problem:
    place: str
    message: str
    remedy: str = ""
    kind: type[PlanError] = PlanError
    nearest: str = ""  # the right key, of one that is misspelt
    missing: bool = False
    short: bool = False  # fewer entries than there have to be

    @property
    def holder(self) -> str:
        """The place that the key stands in, with its dot."""
        return self.place[: self.place.rfind(".") + 1]


def plan_error(
    error: ValidationError, data: Any, *, where: str = "", keys: Keys | None = None, at: str = ""
) -> PlanError:
    """Translate a `ValidationError`.

    Args:
        error: what pydantic raised.
        data: what it validated.
        where: the file or mapping that was read.
        keys: right keys by the name of the key that holds them (`""` at the top).
        at: dotted key under which `data` stands in the plan.

    Returns:
        `UnknownNameError` if the first problem is a key or choice that doesn't exist, `PlanError`
        otherwise; further problems are listed in the message.
    """
    problems: dict[str, _Problem] = {}
    for detail in error.errors():
        path = _path(detail, data)
        problem = _problem(detail, path, keys or {}, at)
        seen = problems.setdefault(problem.place, problem)
        if seen is not problem:  # the branches of a union
            seen.message = f"{seen.message.rstrip('.')}; or: {problem.message}"
            seen.remedy = seen.remedy or problem.remedy
            seen.kind = (
                UnknownNameError if UnknownNameError in (seen.kind, problem.kind) else seen.kind
            )
    # a misspelt key comes before the key that is missing because of it
    first, *others = sorted(
        _causes(problems.values()), key=lambda p: p.kind is not UnknownNameError
    )
    rest = "".join(f" Also {other.place}: {other.message}" for other in others[:NAMED])
    rest += f" And {len(others) - NAMED} more." if len(others) > NAMED else ""
    place = ": ".join(part for part in (where, first.place) if part)
    if not first.remedy:
        return first.kind(first.message + rest, where=place)
    return first.kind(first.message, where=place, remedy=first.remedy + rest)


def _causes(problems: Iterable[_Problem]) -> list[_Problem]:
    """The problems without those that only repeat another one.

    A list whose entry is wrong counts as too short, and a key that was misspelt as missing.
    """
    found = list(problems)
    inside = [one.place for one in found]
    guessed = {f"{one.holder}{one.nearest}" for one in found if one.nearest}
    return [
        one
        for one in found
        if not (one.short and any(place.startswith(f"{one.place}.") for place in inside))
        and not (one.missing and one.place in guessed)
    ]


def _path(detail: Mapping[str, Any], data: Any) -> Path:
    """The error's path without the names of union branches, which pydantic mixes in."""
    path: list[int | str] = []
    for part in detail["loc"]:
        if _holds(data, part):
            data = data[part]
        elif detail["type"] != "missing" or part != detail["loc"][-1]:
            continue
        path.append(part)
    return tuple(path)


def _holds(data: Any, part: int | str) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


def _problem(detail: Mapping[str, Any], path: Path, keys: Keys, at: str) -> _Problem:
    place = ".".join(part for part in (at, *map(str, path)) if part)
    name, kind = str(detail["input"]), detail["type"]
    if kind == "extra_forbidden":
        holders = [part for part in path[:-1] if isinstance(part, str)]
        known = keys.get(holders[-1] if holders else "", ())
        message = f"unknown key '{path[-1]}'."
        key = str(path[-1])
        right = nearest(key, known) or ""
        return _Problem(place, message, suggestion(key, known), UnknownNameError, right)
    if kind == "literal_error" and isinstance(detail["input"], str):
        known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        message = f"'{name}' is not known here."
        return _Problem(place, message, suggestion(name, known), UnknownNameError)
    if kind == "missing":
        return _Problem(place, f"'{path[-1]}' is missing.", "Add it.", missing=True)
    text = _said(detail)
    if kind == "value_error":
        return _Problem(place, f"{text}.")
    message = f"{text[:1].lower()}{text[1:]}, got {_short(detail['input'])}."
    return _Problem(place, message, _remedy(detail, path), short=kind == "too_short")


def _remedy(detail: Mapping[str, Any], path: Path) -> str:
    """What is probably meant by a value of a wrong kind; often nothing is known."""
    if path[-1:] == ("schema_version",):
        return "It is the version of the format, of which this release reads 1, not of your plan."
    if detail["type"] in ("tuple_type", "list_type") and isinstance(detail["input"], Mapping):
        return "Begin every entry of the list with '- '."
    if path[-1:] == ("keep",) and isinstance(detail["input"], float) and detail["input"] > 1:
        return "Tokens are written without a decimal point."
    return ""


def _said(detail: Mapping[str, Any]) -> str:
    """The complaint itself, without words of Python."""
    limit = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
    if detail["type"] in limit:
        most, key = limit[detail["type"]]
        count = counted(detail["ctx"][key], "entry", "entries")
        return f"a list of {most} {count} belongs here"
    text = str(detail["msg"]).removeprefix("Value error, ").rstrip(".").replace("tuple", "list")
    return re.sub(r"valid dictionary( or instance of \w+)?", "mapping", text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
