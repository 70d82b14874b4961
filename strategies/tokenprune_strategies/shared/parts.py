"""Answers that are put together part by part, for one sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenprune.interface.reduction import Reduction


@dataclass
class Parts:
    """New tokens of one sample, collected in any order.

    Attributes:
        count: tokens N that arrived.
        places: tokens whose places the new ones take.
        states: `[k, D]` of these.
        members: tokens that are part of one.
        joins: number of the new token that each is part of.
    """

    count: int
    places: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    members: list[Tensor] = field(default_factory=list)
    joins: list[Tensor] = field(default_factory=list)
    total: int = 0

    def add(self, place: Tensor, states: Tensor, member: Tensor, label: Tensor) -> None:
        """Some new tokens.

        Args:
            place: `[k]` tokens whose places they take, each a member of its own.
            states: `[k, D]`.
            member: `[m]` tokens that are part of one of them.
            label: `[m]` which of these k.
        """
        self.places.append(place)
        self.states.append(states)
        self.members.append(member)
        self.joins.append(label + self.total)
        self.total += len(place)

    def keep(self, place: Tensor, states: Tensor) -> None:
        """Tokens `[k]` that stay as they are, with their states `[k, D]`."""
        self.add(place, states, place, torch.arange(len(place), device=place.device))

    def reduction(self, dtype: torch.dtype) -> Reduction:
        """All of them in the order of their places, as a reduction of a batch of one."""
        anchor, order = torch.cat(self.places).sort()
        rank = torch.empty_like(order)
        rank = rank.scatter(0, order, torch.arange(len(order), device=order.device))
        slot = torch.full((self.count,), -1, device=anchor.device)
        slot = slot.scatter(0, torch.cat(self.members), rank[torch.cat(self.joins)])
        states = torch.cat(self.states)[order].to(dtype)
        return Reduction(anchor=anchor[None], slot=slot[None], created=states[None])
