"""The words of a command line, before the command reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError, PlanError


def several(command: Any) -> list[str]:
    """Options that may be followed by several values: those that can be given several times.

    Of a command with arguments of its own there are none: a further value might be an argument.

    Args:
        command: as click has it.
    """
    if any(param.param_type_name == "argument" for param in command.params):
        return []
    given = [param for param in command.params if getattr(param, "multiple", False)]
    return [name for param in given for name in param.opts]


def spread(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Repeat each of the options before every value: `--keep 64 16` is `--keep 64 --keep 16`."""
    found: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = name if (name := word.partition("=")[0]) in options else ""
        elif option and found[-1] != option:
            found.append(option)
        found.append(word)
    return found


def strays(words: Sequence[str], command: Any) -> list[str]:
    """The words that are neither an option that the command knows nor the value of one."""
    options = [param for param in command.params if param.param_type_name == "option"]
    valued = {name for one in options if not one.is_flag for name in one.opts}
    found, value = [], False
    for word in words:
        if not value and not word.startswith("-"):
            found.append(word)
        value = not value and word in valued
    return found


def check_strays(words: Sequence[str], command: Any) -> None:
    """Refuse words of a command that takes options only, and say how plans are passed to it.

    Of a command line with options that the command doesn't know, the command names those itself.

    Raises:
        DataError: there is such a word.
    """
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    loose = strays(words, command)
    if loose and "--plans" in several(command) and _options(words) <= known:
        raise DataError(
            f"{command.name} takes options only, and this word belongs to none.",
            where=loose[0],
            remedy="Pass plans with --plans; studies run with: tokenprune study FILE.",
        )


def names_study(args: Sequence[str], command: Any) -> bool:
    """Whether arguments are `compare` with a study file, as studies were once run."""
    return args[0] == "compare" and any(map(_holds_study, strays(args[1:], command)))


def _holds_study(word: str) -> bool:
    from tokenprune.plan.read import is_study, read_mapping

    try:
        return is_study(read_mapping(Path(word)))
    except PlanError:
        return False


def _options(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}
