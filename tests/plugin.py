"""Plugins made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenprune.plugins.hookspecs import hookimpl

Register = Callable[[Any], None]


class Plain:
    """An object with the attributes it is given."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


def registering(*things: object, hook: str = "register_strategies") -> Plain:
    """A plugin whose one hook registers things."""

    def implementation(register: Register) -> None:
        for thing in things:
            register(thing)

    return Plain(**{hook: hookimpl(implementation)})
