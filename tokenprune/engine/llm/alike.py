"""Layers that are alike: what one was called with is right for others that are handed the same.

Told apart are the kind of a layer, which is compared by value, and what the LLM hands it, which is
compared by identity: layers of a kind are handed the same objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor

from tokenprune.interface.calls import Arguments, Given, Rotary

Kind = tuple[object, ...]
Objects = tuple[object, ...]


class Known(NamedTuple):
    """What a layer was handed, and what it was called with instead.

    Attributes:
        kind: of the layer.
        handed: all arguments but the states.
        names: of those that were given by name.
        rest: arguments behind the states that the layer was called with.
        kwargs: those by name.
    """

    kind: Kind
    handed: Objects
    names: tuple[str, ...]
    rest: tuple[Any, ...]
    kwargs: Arguments


class Made(NamedTuple):
    """What a layer was called with, where layers have further inputs of their own, too.

    Attributes:
        kind: of the layer.
        of: objects that the call was made of.
        mask: of the call, as are the others; its states aren't held.
        positions: its position ids.
        rotary: its rotary rows.
    """

    kind: Kind
    of: Objects
    mask: Tensor | None
    positions: Tensor | None
    rotary: Rotary


@dataclass
class Alike:
    """Calls of layers in one forward of the LLM: one of every kind.

    Attributes:
        known: as arguments, which spares reading and writing them.
        made: as data.
    """

    known: list[Known] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)

    def arguments(self, kind: Kind, args: tuple[Any, ...], kwargs: Arguments) -> Given | None:
        """The arguments of a layer, if another of its kind was handed the same besides states."""
        handed, names = (*args[1:], *kwargs.values()), tuple(kwargs)
        for known in self.known:
            if _same(known.handed, handed) and known.names == names and known.kind == kind:
                return (*args[:1], *known.rest), known.kwargs
        return None

    def keep(self, kind: Kind, hidden: Tensor, handed: Given, told: Given) -> None:
        """Note the arguments of a layer, if states come first and are those that it was handed.

        Args:
            kind: of the layer.
            hidden: the states.
            handed: what the layer was handed.
            told: what it was called with.
        """
        args, kwargs = handed
        if args and told[0] and args[0] is told[0][0] is hidden:
            rest = (*args[1:], *kwargs.values())
            self.known.append(Known(kind, rest, tuple(kwargs), told[0][1:], told[1]))

    def call(self, kind: Kind, of: Objects) -> Made | None:
        """The call of another layer of this kind that was made of the same objects."""
        found = (made for made in self.made if _same(made.of, of) and made.kind == kind)
        return next(found, None)


def _same(some: Objects, others: Objects) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))
