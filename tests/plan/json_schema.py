"""A reader of the part of JSON Schema that `plan_schema` uses, so that tests need no validator."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
NOTES = {"title", "description", "default", "$defs", "$schema"}


def complaints(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with `value`; an unknown keyword of the schema is an error of the test."""
    root = root or schema
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword not in NOTES:
            found += _CHECKS[keyword](value, rule, schema, root)
    return found


def _flat(parts: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(parts))


def _type(value: Any, rule: str, schema: Any, root: Any) -> list[str]:
    if rule == "integer" and isinstance(value, float) and value.is_integer():
        return []  # JSON has one kind of number
    fits = isinstance(value, KINDS[rule]) and (rule == "boolean" or not isinstance(value, bool))
    return [] if fits else [f"{value!r} is no {rule}"]


def _properties(value: Any, rule: dict[str, Any], schema: Any, root: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    parts = [complaints(value[key], sub, root) for key, sub in rule.items() if key in value]
    return _flat(parts)


def _additional(value: Any, rule: Any, schema: Any, root: Any) -> list[str]:
    if rule is not False or not isinstance(value, dict):
        return []
    return [f"unknown {key}" for key in value if key not in schema.get("properties", {})]


def _ref(value: Any, rule: str, schema: Any, root: Any) -> list[str]:
    return complaints(value, root["$defs"][rule.removeprefix("#/$defs/")], root)


def _some(value: Any, rule: list[Any], schema: Any, root: Any) -> list[str]:
    options = [complaints(value, option, root) for option in rule]
    return [] if any(not option for option in options) else _flat(options)


def _one(value: Any, rule: list[Any], schema: Any, root: Any) -> list[str]:
    fitting = sum(not complaints(value, option, root) for option in rule)
    return [] if fitting == 1 else [f"{value!r} fits {fitting} of {len(rule)} options"]


def _items(value: Any, rule: Any, schema: Any, root: Any) -> list[str]:
    if not isinstance(value, list):
        return []
    return _flat(complaints(item, rule, root) for item in value)


def _when(value: Any, rule: Any, schema: Any, root: Any) -> list[str]:
    return [] if complaints(value, rule, root) else complaints(value, schema["then"], root)


def _bound(compare: Any) -> Any:
    def check(value: Any, rule: Any, schema: Any, root: Any) -> list[str]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return [f"{value!r} is out of bounds"] if number and not compare(value, rule) else []

    return check


_CHECKS: dict[str, Any] = {
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "$ref": _ref,
    "anyOf": _some,
    "oneOf": _one,
    "not": lambda value, rule, _, root: (
        [] if complaints(value, rule, root) else [f"{value!r} is not allowed"]
    ),
    "items": _items,
    "if": _when,
    "then": lambda *_: [],
    "allOf": lambda value, rule, _, root: _flat(complaints(value, r, root) for r in rule),
    "prefixItems": lambda value, rule, _, root: (
        _flat(complaints(v, r, root) for v, r in zip(value, rule, strict=False))
        if isinstance(value, list)
        else []
    ),
    "required": lambda value, rule, *_: [
        f"{key} is missing" for key in rule if isinstance(value, dict) and key not in value
    ],
    "enum": lambda value, rule, *_: [] if value in rule else [f"{value!r} not in {rule}"],
    "const": lambda value, rule, *_: [] if value == rule else [f"{value!r} is not {rule!r}"],
    "minLength": lambda value, rule, *_: [
        "too short" for _ in [0] if isinstance(value, str) and len(value) < rule
    ],
    "minItems": lambda value, rule, *_: [
        "too short" for _ in [0] if isinstance(value, list) and len(value) < rule
    ],
    "maxItems": lambda value, rule, *_: [
        "too long" for _ in [0] if isinstance(value, list) and len(value) > rule
    ],
    "minimum": _bound(lambda value, rule: value >= rule),
    "maximum": _bound(lambda value, rule: value <= rule),
    "exclusiveMinimum": _bound(lambda value, rule: value > rule),
    "exclusiveMaximum": _bound(lambda value, rule: value < rule),
}
