"""Runners and reporters by name, made from options such as a command line has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from tokenprune.errors import PlanError, UnknownNameError
from tokenprune.errors.names import suggestion
from tokenprune.lab.kinds import REPORTERS, RUNNERS
from tokenprune.plugins.host import host
from tokenprune.plugins.kinds import Kind

if TYPE_CHECKING:
    from tokenprune.lab.studies.reporters import Reporter
    from tokenprune.lab.studies.runners import Runner


def make_runner(name: str, options: Mapping[str, Any] | None = None) -> Runner:
    """The runner that is called so.

    Args:
        name: `local`, `ray`, or one of a plugin.
        options: the runner's fields; texts are read as numbers where these are wanted.

    Raises:
        UnknownNameError: there is no such runner, or it has no such option.
        PlanError: an option's value is wrong.
        BackendUnavailableError: it needs a library that isn't installed.
    """
    made: Runner = _made(RUNNERS, name, options or {})
    return made


def make_reporter(name: str, options: Mapping[str, Any] | None = None) -> Reporter:
    """The reporter that is called so.

    Args:
        name: `trackio`, `mlflow`, `wandb`, or one of a plugin.
        options: the reporter's fields.

    Raises:
        UnknownNameError: there is no such reporter, or it has no such option.
        PlanError: an option's value is wrong.
        BackendUnavailableError: it needs a library that isn't installed.
    """
    made: Reporter = _made(REPORTERS, name, options or {})
    return made


def named(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of `NAME:KEY=VALUE,KEY=VALUE`, as command lines have them.

    Raises:
        PlanError: an option without a value.
    """
    name, _, rest = text.partition(":")
    options = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise PlanError(
                f"'{part}' has no value.", where=text, remedy="Write NAME:KEY=VALUE,KEY=VALUE."
            )
        options[key.strip()] = value.strip()
    return name.strip(), options


def _made(kind: Kind[type[Any]], name: str, options: Mapping[str, Any]) -> Any:
    known = host().things(kind)
    where = f"{kind.one} '{name}'"
    if name not in known:
        remedy = host().advice(kind, name)
        raise UnknownNameError(f"there is no {where}.", where=f"--{kind.one}", remedy=remedy)
    chosen: Any = known[name]
    able = [field.name for field in fields(chosen) if field.init]
    for option in options:
        if option not in able:
            raise UnknownNameError(
                f"it has no option '{option}'.", where=where, remedy=suggestion(option, able)
            )
    try:
        return TypeAdapter(chosen).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PlanError(
            f"{place or 'an option'}: {first['msg']}, got {first['input']!r}.", where=where
        ) from error
