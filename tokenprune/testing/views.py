"""Made-up parts of a model, from which the real functions of signals compute their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.interface.signals import (
    BlockAttention,
    BlockBefore,
    BlockOutput,
    Companions,
    LayerAttention,
    LayerInput,
    OutputNorm,
    PromptText,
    Question,
    Rotation,
    Signal,
    TowerSpace,
    View,
)

BEFORE, BEHIND = 2, 3
"""Text tokens of the made-up prompts in front of the visual ones and behind them."""
HEADS, KEY_HEADS, HEAD_WIDTH = 4, 2, 8


@dataclass(frozen=True)
class Maker:
    """Draws parts of a model.

    Attributes:
        batch: samples B.
        count: visual tokens N.
        width: D, of the encoder's states and of the LLM's.
        prefix: class and register tokens P.
        groups: companion tokens G.
        dtype: of everything that is drawn.
        alike: whether all visual tokens of a sample are the same.
        generator: source of randomness, on the CPU.
    """

    batch: int
    count: int
    width: int
    prefix: int
    groups: int
    dtype: torch.dtype
    alike: bool
    generator: torch.Generator

    def drawn(self, *axes: int) -> Tensor:
        """Normal numbers `[*axes]`."""
        return torch.randn(axes, generator=self.generator).to(self.dtype)

    def tokens(self, in_front: int, behind: int, width: int, heads: int = 0) -> Tensor:
        """States `[B, (H,) in_front + N + behind, width]`, visual ones the same if `alike`."""
        front = (self.batch, heads) if heads else (self.batch,)
        made = self.drawn(*front, in_front + self.count + behind, width)
        if self.alike:
            made[..., in_front : in_front + self.count, :] = made[..., in_front, None, :]
        return made

    def value(self, signal: Signal) -> Tensor:
        """A signal's value, with N visual tokens where it has a value for each."""
        view = None if signal.needs is None else self.view(signal.needs)
        if view is None:
            return self._by_axes(signal)
        value = signal.of(view)
        if isinstance(view, PromptText | LayerAttention | LayerInput | OutputNorm):
            for axis, name in enumerate(signal.axes):
                if name == "N":  # views of an LLM cover its sequence
                    value = value.narrow(axis, BEFORE, self.count)
        return value

    def view(self, kind: type[View]) -> View | None:
        """A made-up view; None for a kind that a plugin defines."""
        if issubclass(kind, BlockAttention):
            query, key, value = (self.tokens(self.prefix, 0, HEAD_WIDTH, HEADS) for _ in range(3))
            return kind(query, key, value, None, self.prefix)
        if issubclass(kind, BlockOutput | BlockBefore):
            return kind(self.tokens(self.prefix, 0, self.width), self.prefix)
        if issubclass(kind, Companions):
            return kind(self.drawn(self.batch, self.groups, self.width))
        if issubclass(kind, Question):
            return kind(self.drawn(self.batch, self.width))
        if issubclass(kind, TowerSpace):
            questions = [self.drawn(1 + row % 2, self.width).float() for row in range(self.batch)]
            shown = self.tokens(0, 0, self.width).float()
            return kind(shown, lambda cut: [one[:1] if cut else one for one in questions])
        if issubclass(kind, PromptText):
            return self._prompt()
        if issubclass(kind, LayerAttention):
            return self._layer(kind)
        if issubclass(kind, LayerInput):
            return kind(self.tokens(BEFORE, BEHIND, self.width), self._prompt())
        if issubclass(kind, OutputNorm):
            return kind(lambda states: normalize(states, dim=-1), self._prompt())
        return None

    def _prompt(self) -> PromptText:
        length = BEFORE + self.count + BEHIND
        slots = torch.arange(length)
        behind = slots >= BEFORE + self.count
        valid = torch.ones(self.batch, length, dtype=torch.bool)
        valid[1::2, 0] = False  # every other prompt is shorter by one token, padded on the left
        there = valid & ((slots < BEFORE) | behind)
        return PromptText(
            hidden=self.tokens(BEFORE, BEHIND, self.width),
            valid=valid,
            there=there,
            behind=behind.expand(self.batch, -1),
            last=torch.full((self.batch,), length - 1),
            visual=valid & (slots >= BEFORE) & ~behind,
        )

    def _layer(self, kind: type[LayerAttention]) -> LayerAttention:
        made = {
            rotation: tuple(
                self.tokens(BEFORE, BEHIND, HEAD_WIDTH, heads) for heads in (HEADS, KEY_HEADS)
            )
            for rotation in get_args(Rotation)
        }
        return kind(lambda rotation: (made[rotation][0], made[rotation][1]), self._prompt())

    def _by_axes(self, signal: Signal) -> Tensor:
        """Numbers from 0 to 1 of the shape that the meaning gives; unknown axes have length 4."""
        known = {"B": self.batch, "N": self.count, "P": self.prefix, "D": self.width}
        axes = [known.get(axis, 4) for axis in signal.axes if axis != "..."]
        value = torch.rand(axes, generator=self.generator).to(self.dtype)
        if self.alike and signal.per_token:
            value[:] = value[:, :1].clone()
        return value
