"""Copies of what a recorded pass left, because every replay overwrites the memory that it is in."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.stages import EncoderSite
from tokenprune.errors import UnsupportedCallError

#: Objects without a tensor of a pass, which everybody may share.
_SHARED = (
    *(type(None), bool, int, float, complex, str, bytes, type, Enum),
    *(torch.dtype, torch.device, torch.Size, EncoderSite),
)


class Copies:
    """Makes copies of an object of tensors, containers, dataclasses and plain values.

    What was one tensor or one object is one in a copy, too. Outputs of model libraries that are
    both a dataclass and a mapping keep their class.

    Args:
        found: the object. It is kept, and with it the memory of its tensors.

    Raises:
        UnsupportedCallError: it holds something else, in which tensors may be hidden.
    """

    def __init__(self, found: Any) -> None:
        self._found = found
        self.tensors: list[Tensor] = []
        self._number: dict[int, int] = {}
        self._copied: dict[int, bool] = {}
        self._look(found)
        groups: dict[object, list[int]] = defaultdict(list)
        for number, one in enumerate(self.tensors):
            groups[one.device, one.dtype, one.is_contiguous()].append(number)
        self._groups = [([self.tensors[at] for at in own], own) for own in groups.values()]

    def taken(self) -> Any:
        """A copy of the object as it is now."""
        fresh = [torch.empty_like(one) for one in self.tensors]
        for sources, numbers in self._groups:
            torch._foreach_copy_([fresh[at] for at in numbers], sources, non_blocking=True)
        return self._copy(self._found, fresh, {})

    def _look(self, one: Any) -> bool:
        """Note the tensors of an object, and whether it has to be copied."""
        known = self._copied.get(id(one))
        if known is not None:
            return known
        if isinstance(one, _SHARED):
            copied = False
        elif isinstance(one, Tensor):
            if type(one) not in (Tensor, nn.Parameter) or one.layout != torch.strided:
                raise _unknown(one)
            self._number[id(one)] = len(self.tensors)
            self.tensors.append(one)
            copied = True
        else:
            # others may write to lists, mappings and states
            written = isinstance(one, list | dict) or _is_state(one)
            copied = sum(map(self._look, _parts(one))) > 0 or written  # looks at all of them
        self._copied[id(one)] = copied
        return copied

    def _copy(self, one: Any, fresh: list[Tensor], made: dict[int, Any]) -> Any:
        key = id(one)
        if not self._copied[key]:
            return one
        if key in self._number:
            return fresh[self._number[key]]
        found = made.get(key)
        if found is None:
            found = made[key] = self._rebuilt(one, fresh, made)
        return found

    def _rebuilt(self, one: Any, fresh: list[Tensor], made: dict[int, Any]) -> Any:
        kind = type(one)
        if isinstance(one, dict | MappingProxyType):
            parts = {name: self._copy(part, fresh, made) for name, part in one.items()}
            return kind(**parts) if dataclasses.is_dataclass(one) else parts
        if isinstance(one, list | tuple):
            each = [self._copy(part, fresh, made) for part in one]
            return kind(*each) if hasattr(one, "_fields") else kind(each)
        copy: Any = object.__new__(kind)  # a frozen one, too
        slots = copy.__dict__
        for name, part in vars(one).items():
            slots[name] = self._copy(part, fresh, made)
        return copy


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
