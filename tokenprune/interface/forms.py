"""Whether a tensor of a strategy's answer has the right form: its kind, shape and dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors.words import indefinite

PLACES = (torch.int64,)
NUMBERS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SCORES = (*NUMBERS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""Dtypes that tokens can be ordered by; the right one first."""


def form_fault(
    name: str,
    value: Any,
    shape: tuple[int | None, ...],
    dtypes: tuple[torch.dtype, ...] | None,
    *,
    more: bool = False,
) -> str:
    """What is wrong with the form of a part of an answer; reads no value.

    Args:
        name: what the part is called, in the plural.
        value: what was answered.
        shape: the right shape; None stands for a length that is free.
        dtypes: dtypes that are taken, the right one first; None for any.
        more: whether further dimensions may follow.

    Returns:
        What the strategy did, such as "answered with scores of shape (2, 195) where [2, 196] is
        right"; empty if the form is right.
    """
    if not isinstance(value, Tensor):
        kind = indefinite(type(value).__name__)
        return f"answered with {name} that are {kind} where a Tensor is right"
    found = value.shape[: len(shape)] if more else value.shape
    if found != shape and not _alike(found, shape):
        wanted = ", ".join("K" if size is None else str(size) for size in shape)
        return f"answered with {name} of shape {tuple(value.shape)} where [{wanted}] is right"
    if dtypes is not None and value.dtype not in dtypes:
        return f"answered with {name} of {value.dtype} where {dtypes[0]} is right"
    return ""


def _alike(found: Sequence[int], shape: Sequence[int | None]) -> bool:
    """Whether a shape is the right one, of which some lengths are free."""
    if len(found) != len(shape):
        return False
    for size, want in zip(found, shape, strict=True):
        if want is not None and size != want:
            return False
    return True
