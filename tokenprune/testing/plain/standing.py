"""Where the pictures of a prompt stand in it: each unit's place, and the separators around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.errors import ReductionError
from tokenprune.interface.places import Places

Shown = tuple[str, Places]
"""Kind of a picture, and its placeholders."""


@dataclass(frozen=True)
class Stand:
    """One picture in a prompt.

    Attributes:
        units: `[N]` place of every unit.
        separators: places of the units of the line that a separator ends, which it leaves with,
            by the separator's own place.
    """

    units: Tensor
    separators: Mapping[int, Tensor]


def stands_of(ids: Tensor, placeholders: Mapping[str, int], shown: Sequence[Shown]) -> list[Stand]:
    """Find the pictures in a prompt.

    Args:
        ids: `[T]` token ids.
        placeholders: token id that stands for visual tokens, by kind of picture.
        shown: the pictures, those of a kind in the order in which the prompt shows them.

    Raises:
        ReductionError: the prompt has more or fewer placeholders than the pictures.
    """
    waiting = {one: (ids.cpu() == one).nonzero()[:, 0] for one in placeholders.values()}
    found = []
    for kind, places in shown:
        one = placeholders[kind]
        mine, waiting[one] = waiting[one][: places.count], waiting[one][places.count :]
        if len(mine) < places.count:
            raise _mismatch(places.count - len(mine), "too few")
        found.append(_stand(mine, places))
    left = sum(len(rest) for rest in waiting.values())
    if left:
        raise _mismatch(left, "too many")
    return found


def _stand(mine: Tensor, places: Places) -> Stand:
    """One picture, whose placeholders `[count]` are given."""
    shows = torch.tensor([at not in places.others for at in range(places.count)])
    separators = {}
    for at, span in places.others.items():
        if span is not None:
            inside = torch.arange(places.count)
            line = (inside >= span[0]) & (inside < span[1]) & shows
            separators[int(mine[at])] = mine[line]
    return Stand(mine[shows], separators)


def _mismatch(count: int, which: str) -> ReductionError:
    return ReductionError(
        f"the prompt has {count} placeholders {which} for the pictures of the trace.",
        where="trace",
        remedy="Every placeholder must stand for one token of an image, or for a separator.",
    )
