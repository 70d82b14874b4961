"""What a kind of thing is that plugins bring, and what is asked of things of several kinds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

Thing = TypeVar("Thing")

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_HOOK = "register_"


@dataclass(frozen=True)
class Kind(Generic[Thing]):
    """A row of the host's table: one kind of thing that plugins bring.

    Attributes:
        one: what messages call one such thing.
        hook: the specification `register_THINGS(register)`, marked with `hookspec`. Plugins
            implement it and call `register` for each thing.
        check: a thing -> what is wrong with it, in words; empty if nothing is.
        name_of: a sound thing -> the name by which users choose it.
    """

    one: str
    hook: Callable[..., None]
    check: Callable[[Any], str]
    name_of: Callable[[Thing], str] = attrgetter("name")

    @property
    def name(self) -> str:
        """What several are called, such as `strategies`."""
        return self.hook_name.removeprefix(_HOOK)

    @property
    def hook_name(self) -> str:
        """Name of the hook, such as `register_strategies`."""
        return str(getattr(self.hook, "__name__", ""))


def wrong_kind(given: Any) -> str:
    """What is wrong with a kind; empty if nothing is."""
    if not isinstance(given, Kind):
        return "register an instance of Kind"
    if not given.hook_name.startswith(_HOOK) or not hasattr(given.hook, "tokenprune_spec"):
        return f"its hook has to be called {_HOOK}THINGS and be marked with @hookspec"
    parameters = [*inspect.signature(given.hook).parameters]
    return "" if parameters == ["register"] else "its hook takes `register` and nothing else"


def wrong_name(given: object) -> str:
    """What is wrong with the `name` of a thing; empty if nothing is."""
    name = getattr(given, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"its name has to be lower-case letters, digits, '_', '-' and '.', not {name!r}"
    return ""


def wrong_class(given: Any, base: type) -> str:
    """What is wrong with something that has to be a named class under `base`; or empty."""
    if not (isinstance(given, type) and issubclass(given, base)):
        return f"register a subclass of {base.__name__}"
    if inspect.isabstract(given):
        return f"it lacks {', '.join(sorted(getattr(given, '__abstractmethods__', ())))}"
    return wrong_name(given)


def wrong_dataclass(given: Any, *parts: str) -> str:
    """What is wrong with something that has to be a named dataclass with these parts; or empty."""
    if not (isinstance(given, type) and is_dataclass(given)):
        return "register a dataclass, whose fields are its options"
    return lacking(given, *parts) or wrong_name(given)


def lacking(given: object, *parts: str) -> str:
    """Which parts a thing lacks, in words; empty if it has all."""
    missing = [part for part in parts if not hasattr(given, part)]
    return f"it lacks {', '.join(missing)}" if missing else ""
