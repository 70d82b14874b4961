"""Run a vision encoder over all patches, with those that a plan removed hidden as keys.

Written in plain loops, patch by patch. Blocks in front of the first removal run as they are; the
others by the halves that the adapter names, with a bias on the keys: minus infinity for patches
that are gone, and the log of the size where the strategy weighs merged tokens by it (ToMe,
arXiv 2210.09461, eq. 1). A merged token stands at its anchor's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import EncoderAdapter


@dataclass(frozen=True)
class TowerStep:
    """One reduction inside an encoder.

    Attributes:
        block: at which block.
        inside: whether between its attention and its MLP; else in front of it.
        slot: `[B, N]` slot of every token that arrived, -1 if dropped.
        anchor: `[B, K]` patch whose place every survivor holds.
        averages: whether a survivor is the mean of its slot by size; else it is its anchor.
        proportional: whether later attention adds the log of sizes.
    """

    block: int
    inside: bool
    slot: Tensor
    anchor: Tensor
    averages: bool
    proportional: bool


class FullTower:
    """One full-length pass through an encoder; `states` is what the last used block put out.

    Args:
        adapter: the encoder's family.
        used: blocks that are read.
        steps: what the pruned pass removed, in order.
    """

    def __init__(self, adapter: EncoderAdapter, used: int, steps: Sequence[TowerStep]) -> None:
        self.adapter, self.used, self.steps = adapter, used, steps
        self.prefix = adapter.spec().prefix
        self.states: Tensor | None = None
        self._places: list[list[int]] = []
        self._size = torch.empty(0)
        self._proportional = self._touched = False

    def install(self, patches: Patches) -> None:
        """Wrap the forward of every used block."""
        blocks = self.adapter.spec().blocks
        for number in range(self.used):
            patches.override(blocks[number], "forward", self._block(number, blocks[number]))

    def survivors(self) -> Tensor:
        """`[B, P + K, D]` prefix and survivors of `states`, in the order of their slots."""
        assert self.states is not None
        rows = [
            torch.cat((row[: self.prefix], row[self.prefix :][places]))
            for row, places in zip(self.states, self._places, strict=True)
        ]
        return torch.stack(rows)

    def _block(self, number: int, block: nn.Module) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if number == 0:
                batch, patches = hidden.shape[0], hidden.shape[1] - self.prefix
                self._places = [list(range(patches)) for _ in range(batch)]
                self._size = hidden.new_ones(batch, patches)
                self._proportional = self._touched = False
            hidden = self._reduce(number, hidden, inside=False)
            inside = any(step.block == number and step.inside for step in self.steps)
            if self._touched or inside:
                hidden = self._halves(number, block, hidden, args, kwargs)
            else:
                hidden = original(hidden, *args, **kwargs)
            if number == self.used - 1:
                self.states = hidden
            return hidden

        return forward

    def _halves(
        self,
        number: int,
        block: nn.Module,
        hidden: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        query, key, value = self.adapter.heads(block, hidden)
        query, key = self.adapter.rotate(query, key, args, kwargs)
        mask = self._mask(query)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = self.adapter.join(block, hidden, attended)
        return self.adapter.feed_forward(block, self._reduce(number, hidden, inside=True))

    def _mask(self, query: Tensor) -> Tensor:
        """`[B, 1, T, T]` bias on the keys; what is gone goes on seeing itself."""
        total = query.shape[2]
        mask = query.new_zeros(len(self._places), 1, total, total)
        for row, places in enumerate(self._places):
            bias = query.new_full((total - self.prefix,), -math.inf)
            here = self._size[row, places].log() if self._proportional else query.new_zeros(())
            bias[places] = here.to(bias)
            mask[row, 0, :, self.prefix :] = bias
        own = torch.eye(total, dtype=torch.bool, device=query.device)
        return mask.masked_fill(own & mask.isinf(), 0.0)

    def _reduce(self, number: int, hidden: Tensor, *, inside: bool) -> Tensor:
        for step in self.steps:
            if step.block == number and step.inside == inside:
                hidden = hidden.clone()
                for row in range(hidden.shape[0]):
                    self._reduce_row(step, row, hidden[row])
                self._proportional = self._proportional or step.proportional
                self._touched = True
        return hidden

    def _reduce_row(self, step: TowerStep, row: int, hidden: Tensor) -> None:
        """Carry out a step on the states `[P + N, D]` of one image, in place."""
        before, size = hidden.clone(), self._size[row].clone()
        members: dict[int, list[int]] = {}
        for place, slot in zip(self._places[row], step.slot[row].tolist(), strict=True):
            members.setdefault(slot, []).append(place)
        anchors = step.anchor[row].tolist()
        for slot, anchor in enumerate(anchors):
            weights = size[members[slot]]
            if step.averages and len(members[slot]) > 1:
                states = before[[self.prefix + place for place in members[slot]]]
                hidden[self.prefix + anchor] = (weights[:, None] * states).sum(0) / weights.sum()
            self._size[row, anchor] = weights.sum()
        self._places[row] = anchors
