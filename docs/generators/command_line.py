"""The page of the command line, from the program itself."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from generators.markdown import MARK, table
from tokenprune.cli.app import app
from tokenprune.cli.words import several

INTRO = """\
# Command line

{mark}
`tokenprune --help` and `tokenprune COMMAND --help` print this page's content, and
`tokenprune --version` the version; `tokenprune doctor` shows those of other packages, too. Exit
codes, for scripts: **0** all is well, **1** something that must hold doesn't (a plugin is broken, a
measured count isn't the plan's), **2** bad input, with a message that names place and remedy and no
traceback, **130** interrupted.

In {spread}, which take options only, an option that can be given several times may
also be followed by several values: `--plans a.yaml b.yaml` is `--plans a.yaml --plans b.yaml`.
"""
KINDS = {str: "text", int: "integer", float: "number", Path: "path", bool: "flag"}


def command_line() -> str:
    """The page, in Markdown."""
    group: Any = typer.main.get_command(app)
    mark = MARK.format(source="tokenprune/cli")
    parts = [part for name, command in _commands(group) for part in _command(name, command)]
    spreading = [f"`{name}`" for name, command in _commands(group) if several(command)]
    return "\n".join([INTRO.format(mark=mark, spread=" and ".join(spreading)), *parts])


def _commands(group: Any) -> Iterator[tuple[str, Any]]:
    """Every command with its name; those of a group behind the group's name."""
    for name, command in group.commands.items():
        inside = getattr(command, "commands", None)
        if inside is None:
            yield name, command
        else:
            yield from ((f"{name} {one}", own) for one, own in inside.items())


def _command(name: str, command: Any) -> Iterator[str]:
    callback = inspect.unwrap(command.callback)
    kinds = typing.get_type_hints(callback)
    known = [param for param in command.params if param.name in kinds]
    places = [param for param in known if param.param_type_name == "argument"]
    options = [param for param in known if param.param_type_name == "option"]
    words = ["tokenprune", name, *(["[OPTIONS]"] if options else []), *map(_metavar, places)]
    yield f"## {name}\n"
    yield f"```sh\n{' '.join(words)}\n```\n"
    yield f"{command.help}\n"
    rows = [_row(param, kinds[param.name]) for param in (*places, *options)]
    if rows:
        yield table(("option", "type", "default", "meaning"), rows)
    yield from _examples(command.epilog or "")


def _examples(epilog: str) -> Iterator[str]:
    lines = [line.strip() for line in Text.from_markup(epilog).plain.splitlines()]
    commands = [line for line in lines if line.startswith("tokenprune ")]
    said = " ".join(line for line in lines if line and line not in commands)
    if said:
        yield f"{said}\n"
    if commands:
        yield "\n".join(("```sh", *commands, "```\n"))


def _row(param: Any, kind: Any) -> tuple[str, ...]:
    if param.param_type_name == "argument":
        name = f"`{_metavar(param)}`"
    else:
        name = " / ".join(f"`{text}`" for text in (*param.opts, *param.secondary_opts))
    shown, several = _kind(kind)
    default = "required" if param.required else _default(param.default)
    return name, f"{shown}, several" if several else shown, default, param.help or ""


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _kind(annotation: Any) -> tuple[str, bool]:
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not types.NoneType)
    if typing.get_origin(annotation) is list:
        return KINDS[typing.get_args(annotation)[0]], True
    return KINDS[annotation], False


def _default(value: Any) -> str:
    if value is None or value == []:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
