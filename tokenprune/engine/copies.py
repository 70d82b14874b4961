"""Copies of what a recorded pass left, because every replay overwrites the memory that it is in."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.stages import EncoderSite
from tokenprune.errors import UnsupportedCallError

_Build = Callable[[Any], Any]
"""What makes an object of its parts."""
_Take = Callable[[list[Any]], Any]
"""What takes the parts of an object out of a list, as a tuple."""

#: Objects without a tensor of a pass, which everybody may share.
_SHARED = (
    *(type(None), bool, int, float, complex, str, bytes, type, Enum),
    *(torch.dtype, torch.device, torch.Size, EncoderSite),
)


class Copies:
    """Makes copies of an object of tensors, containers, dataclasses and plain values.

    What was one tensor or one object is one in a copy, too. Outputs of model libraries that are
    both a dataclass and a mapping keep their class. How a copy is put together is found out once:
    every object has a number, and those that are copied are built in turn, from objects of lower
    numbers.

    Args:
        found: the object. It is kept, and with it the memory of its tensors. Nobody writes to it
            but to the tensors' values.

    Raises:
        UnsupportedCallError: it holds something else, in which tensors may be hidden.
    """

    def __init__(self, found: Any) -> None:
        self._found = found
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._shared: list[Any] = []  # by number; None for those that are copied
        self._places: list[int] = []  # numbers of the tensors
        self._steps: dict[int, tuple[_Build, _Take]] = {}
        self._whole = self._look(found)
        groups: dict[object, list[int]] = defaultdict(list)
        for at, one in enumerate(self.tensors):
            groups[one.device, one.dtype, one.is_contiguous()].append(at)
        self._groups = [([self.tensors[at] for at in own], _taking(own)) for own in groups.values()]

    def taken(self) -> Any:
        """A copy of the object as it is now."""
        fresh = [*map(torch.empty_like, self.tensors)]
        for sources, own in self._groups:
            torch._foreach_copy_(own(fresh), sources, non_blocking=True)
        made = self._shared.copy()
        for number, one in zip(self._places, fresh, strict=True):
            made[number] = one
        for number, (build, take) in self._steps.items():
            made[number] = build(take(made))
        return made[self._whole]

    def _look(self, one: Any) -> int:
        """The number of an object, behind those that it consists of."""
        known = self._numbers.get(id(one))
        if known is not None:
            return known
        step = None if isinstance(one, (Tensor, *_SHARED)) else self._step(one)
        number = self._numbers[id(one)] = len(self._shared)
        self._shared.append(one)
        if isinstance(one, Tensor):
            if type(one) not in (Tensor, nn.Parameter) or one.layout != torch.strided:
                raise _unknown(one)
            self._places.append(number)
            self.tensors.append(one)
            self._shared[number] = None
        elif step is not None:
            self._steps[number] = step
            self._shared[number] = None
        return number

    def _step(self, one: Any) -> tuple[_Build, _Take] | None:
        """How a copy of an object is built of the copies of its parts; None if it is shared."""
        parts = [self._look(part) for part in _parts(one)]
        # others may write to lists, mappings and states
        written = isinstance(one, list | dict) or _is_state(one)
        if not written and not any(part in self._steps or part in self._places for part in parts):
            return None
        return _building(one), _taking(parts)


def _taking(numbers: list[int]) -> _Take:
    """What takes these entries out of a list."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return lambda found: tuple(map(found.__getitem__, numbers))


def _building(one: Any) -> _Build:
    """What makes an object like another one of other parts, in the order of `_parts`."""
    kind = type(one)
    if isinstance(one, dict | MappingProxyType):
        names = tuple(one)
        if dataclasses.is_dataclass(one):
            return lambda parts: kind(**dict(zip(names, parts, strict=True)))
        return lambda parts: dict(zip(names, parts, strict=True))
    if isinstance(one, list | tuple):
        return partial(tuple.__new__, kind) if hasattr(one, "_fields") else kind
    slots = tuple(vars(one))

    def build(parts: tuple[Any, ...]) -> Any:
        copy: Any = object.__new__(kind)  # a frozen one, too
        copy.__dict__.update(zip(slots, parts, strict=True))
        return copy

    return build


def _is_state(one: Any) -> bool:
    parameters = getattr(type(one), "__dataclass_params__", None)
    return parameters is not None and not parameters.frozen


def _parts(one: Any) -> Iterator[Any]:
    """What an object consists of.

    Raises:
        UnsupportedCallError: nobody knows.
    """
    kind = type(one)
    whole = kind in (list, tuple, dict, MappingProxyType) or hasattr(one, "_fields")
    if whole or dataclasses.is_dataclass(one):
        if isinstance(one, dict | MappingProxyType):
            return iter(one.values())
        if isinstance(one, list | tuple):
            return iter(one)
        if hasattr(one, "__dict__"):
            return iter(vars(one).values())
    raise _unknown(one)


def _unknown(one: Any) -> UnsupportedCallError:
    kind = f"{type(one).__module__}.{type(one).__qualname__}"
    return UnsupportedCallError(
        f"a pass leaves a {kind}, and nobody knows how tensors in it are copied.",
        where="record",
        remedy="Make it a dataclass, a tuple, a list or a dict of tensors.",
    )
