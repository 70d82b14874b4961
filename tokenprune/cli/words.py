"""The words of a command line, before the command reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
