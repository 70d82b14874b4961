"""What a pass is given: as a key, by which passes are of one kind, and with other tensors."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Undescribed(Exception):
    """An argument that says nothing by its value."""


def described(given: Any, into: list[Tensor]) -> Hashable:
    """An argument as a key, without the values of its tensors, which are listed.

    Raises:
        Undescribed: it is neither a tensor, a container, a number nor text.
    """
    kind = type(given)
    if kind in (Tensor, nn.Parameter) and given.layout == torch.strided:
        into.append(given)
        return given.shape, given.dtype
    if given is None or kind in (bool, int, float, str, torch.dtype, torch.device, torch.Size):
        return kind, given
    if kind in (tuple, list):
        return kind, tuple([described(one, into) for one in given])
    if kind is dict:
        return kind, tuple([(name, described(one, into)) for name, one in given.items()])
    raise Undescribed


def replaced(given: Any, tensors: Iterator[Tensor]) -> Any:
    """An argument with other tensors, in the order in which `described` lists them."""
    if isinstance(given, Tensor):
        return next(tensors)
    if isinstance(given, tuple | list):
        return type(given)([replaced(one, tensors) for one in given])
    if isinstance(given, dict):
        return {name: replaced(one, tensors) for name, one in given.items()}
    return given
