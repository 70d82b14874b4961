"""Layers that are alike: what one was called with is right for others that are handed the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


class Known(NamedTuple):
    """What a layer was handed, and what it was called with instead.

    Attributes:
        kind: what tells layers apart that are handed the same objects.
        names: of the arguments that were given by name.
        handed: all arguments but the states.
        rest: arguments behind the states that the layer was called with.
        kwargs: those by name.
    """

    kind: tuple[object, ...]
    names: tuple[str, ...]
    handed: tuple[object, ...]
    rest: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass
class Alike:
    """Calls of layers in one forward of the LLM, which hands all layers of a kind the same.

    Attributes:
        known: one call of every kind.
    """

    known: list[Known] = field(default_factory=list)

    def find(
        self, kind: tuple[object, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Arguments | None:
        """The arguments of a layer, if another of its kind was handed the same besides states."""
        handed = (*args[1:], *kwargs.values())
        for one in self.known:
            same = len(one.handed) == len(handed) and all(map(is_, one.handed, handed))
            if same and one.kind == kind and one.names == tuple(kwargs):
                return (*args[:1], *one.rest), one.kwargs
        return None

    def keep(
        self, kind: tuple[object, ...], hidden: Tensor, handed: Arguments, told: Arguments
    ) -> None:
        """Note a call of a layer, if states come first in it and as they were handed.

        Args:
            kind: see `Known`.
            hidden: the states.
            handed: what the layer was handed.
            told: what it was called with.
        """
        args, kwargs = handed
        if args and told[0] and args[0] is told[0][0] is hidden:
            rest = (*args[1:], *kwargs.values())
            self.known.append(Known(kind, tuple(kwargs), rest, told[0][1:], told[1]))
