"""What stands in a KV cache in front of a further turn of a chat, as each layer of the LLM has it.

Index words (prompt place, input column, slot) are those of `level`; the turn's own count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Level
from tokenprune.engine.llm.masks import narrow, within


@dataclass(frozen=True)
class EarlierTurns:
    """Earlier turns, and the text behind them.

    Attributes:
        layout: how they were shortened.
        cache: the cache.
        keys: how many keys every layer's cache holds; empty where no layer has a window.
    """

    layout: Layout
    cache: Any
    keys: Sequence[int] = ()

    def columns(self, layer: int, level: Level) -> Tensor:
        """`[B, K]` input columns of a layer's keys: those in its cache, and the turn's own.

        Args:
            layer: its number.
            level: what is left of the turn there.
        """
        front = self.layout.level(layer)
        return torch.cat((front.column, level.column + self.layout.entry.length), dim=1)

    def valid(self, layer: int, level: Level) -> Tensor:
        """`[B, K]` False for dummies and padding among a layer's keys; see `columns`."""
        return torch.cat((self.layout.level(layer).valid, level.valid), dim=1)

    def narrow(self, layer: int, level: Level, mask: Tensor | None, *, flat: bool) -> Tensor | None:
        """The LLM's mask of the turn, for the queries and keys that a layer has.

        Args:
            layer: its number.
            level: what is left of the turn there.
            mask: see `masks.narrow`.
            flat: see `masks.narrow`.
        """
        columns, valid = self.columns(layer, level), self.valid(layer, level)
        padded = self.layout.level(layer).padded or level.padded
        return narrow(mask, columns, valid, padded=padded, queries=level.column, flat=flat)

    def within(
        self, layer: int, level: Level, window: int | None, like: Tensor | None, *, flat: bool
    ) -> Tensor:
        """A layer's mask in an LLM that sees one way and counts windows in slots by itself.

        Args:
            layer: its number; its cache may hold the last keys only.
            level: what is left of the turn there.
            window: see `masks.behind`.
            like: see `masks.behind`.
            flat: see `masks.narrow`.
        """
        front, count = self.layout.level(layer), self.keys[layer] + level.length
        place = torch.cat((front.place, level.place + self.layout.length), dim=1)[:, -count:]
        valid = self.valid(layer, level)[:, -count:]
        if flat:
            return valid.long()
        return within(place, valid, level.length, window, like)
