"""What a strategy is given: the tokens at one site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tokenprune.errors import SignalError
from tokenprune.interface.dense import Part
from tokenprune.interface.records import changed
from tokenprune.interface.signals import WHOLE, Signal
from tokenprune.interface.sites import Grid, Site

Kind = Literal["visual", "text"]


@dataclass(frozen=True)
class Tokens:
    """The tokens at one site, as a dense batch without padding or special tokens.

    They are visual, except in the second call of a decoder stage whose plan says `keep_text`. Then
    they are the prompt's prunable text tokens: `index` is their place in the prompt (padding left
    out), `grid` is (1, 1, tokens of the prompt without labelled answers) and sizes are one.

    Attributes:
        hidden: hidden states, `[B, N, D]`. Where several patches become one token of the LLM, and
            the encoder keeps them together, these are a token, and their states stand side by side.
        size: patches that each token stands for, `[B, N]` float32.
        index: original patch index (raster order) whose place the token holds, `[B, N]` int64.
        grid: the unpruned patch grid (t, h, w).
        site: where this is.
        prefix: class and register tokens, `[B, P, D]`; never pruned.
        signals: what the strategy asked for, by signal name.
        riders: per-token values that earlier stages left for later ones, `[B, N, ...]`.
        seed: the plan's seed, the only source of randomness.
        kind: `visual`, or `text` for strategies at `Decoder(text=True)`.
    """

    hidden: Tensor
    size: Tensor
    index: Tensor
    grid: Grid
    site: Site
    prefix: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    riders: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    kind: Kind = "visual"

    @property
    def position(self) -> Tensor:
        """(t, h, w) on the patch grid, `[B, N, 3]` int64; (0, 0, index) for text."""
        return grid_positions(self.grid, self.index)

    @property
    def count(self) -> int:
        """Number of tokens N of every sample in this batch."""
        return self.hidden.shape[1]

    def signal(self, signal: Signal) -> Tensor:
        """The tensor of a signal that the strategy declared it needs; its shape is the signal's.

        Raises:
            SignalError: the strategy did not ask for it.
        """
        if signal.name not in self.signals:
            raise SignalError(
                f"the signal '{signal}' was read but not asked for.",
                where=str(self.site),
                remedy="Return it from the strategy's signals().",
            )
        return self.signals[signal.name]

    def of(self, rows: Sequence[int] | None) -> Tokens:
        """The tokens of some samples only, `rows` of the batch in ascending order; None for all."""
        if rows is None or len(rows) == self.hidden.shape[0]:
            return self
        pick = list(rows)
        return changed(
            self,
            hidden=self.hidden[pick],
            size=self.size[pick],
            index=self.index[pick],
            prefix=None if self.prefix is None else self.prefix[pick],
            signals={name: value[pick] for name, value in self.signals.items()},
            riders={name: value[pick] for name, value in self.riders.items()},
        )

    def after(self, part: Part, *, states: bool = True) -> Tokens:
        """What is left of the tokens, and of everything that rides along with them.

        Args:
            part: what becomes of exactly these samples.
            states: False leaves the hidden states out, `[B, K, 0]`: the caller writes them itself.
        """
        riders = {**self.riders, **part.riders}
        dense = part.dense
        if dense is None:
            return changed(self, riders=riders)
        left = self.hidden[:, : dense.length, :0] if not states else dense.states(self.hidden)
        return changed(
            self,
            hidden=left,
            size=dense.sizes(self.size),
            index=dense.take(self.index),
            signals={
                name: value if name in WHOLE else dense.take(value)
                for name, value in self.signals.items()
            },
            riders={name: dense.take(value) for name, value in riders.items()},
        )


def grid_positions(grid: Sequence[int | Tensor], index: Tensor) -> Tensor:
    """(t, h, w) of raster indices: `[B, N]` int64 -> `[B, N, 3]` int64.

    Args:
        grid: (t, h, w), or tensors of these for every index.
        index: in raster order.
    """
    _, height, width = grid
    frame = index // (height * width)
    row = (index // width) % height
    return torch.stack((frame, row, index % width), dim=-1)
