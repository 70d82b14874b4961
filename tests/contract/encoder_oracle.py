"""A pruned CLIP encoder as loops over lists of floats: what its numbers have to be.

Which tokens go is read from the strategies' answers; every state is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.models import HEADS
from tests.strategies.loops import Vector, add, attend, linear, mean, norm
from tokenprune.interface.reduction import Reduction


@dataclass
class Revival:
    """Dropped tokens of one image that follow the mean move of their nearest kept ones.

    Attributes:
        before: states of all tokens when some were dropped.
        kept: rows of the kept ones.
        near: for every dropped row its nearest kept ones, as places in `kept`.
        sizes: patches that each token stood for.
        blocks: blocks whose attention still sees all tokens.
    """

    before: list[Vector]
    kept: list[int]
    near: dict[int, list[int]]
    sizes: list[float]
    blocks: int

    @classmethod
    def of(
        cls, before: list[Vector], kept: list[int], sizes: list[float], k: int, blocks: int
    ) -> Revival:
        """Find the neighbours of every dropped token by distance; ties go to the earlier one."""
        near = {}
        for row in sorted(set(range(len(before))) - set(kept)):
            far = [math.dist(before[row], before[other]) for other in kept]
            near[row] = sorted(range(len(kept)), key=lambda place: (far[place], place))[:k]
        return cls(before, kept, near, sizes, blocks)

    def full(self, states: list[Vector]) -> list[Vector]:
        """All tokens, of the kept ones' states now."""
        made = []
        for row, old in enumerate(self.before):
            if row in self.kept:
                made.append(states[self.kept.index(row)])
                continue
            moves = [
                add(states[place], [-x for x in self.before[self.kept[place]]])
                for place in self.near[row]
            ]
            made.append(add(old, mean(moves)))
        return made


@dataclass
class Image:
    """One image on its way through the blocks.

    Attributes:
        prefix: class token.
        patches: states of the tokens left.
        sizes: patches that each stands for.
        biased: whether attention adds log sizes.
        companions: tokens that read the image and are read by none of it.
        revival: dropped tokens that attention may still see.
    """

    prefix: list[Vector]
    patches: list[Vector]
    sizes: list[float]
    biased: bool = False
    companions: Sequence[Vector] = ()
    revival: Revival | None = None

    def block(self, block: Any, number: int, answers: Mapping[int, Reduction], how: How) -> None:
        """One block: drop before it, or attend, merge, and go through the MLP."""
        if not how.inside:
            self.reduce(answers.get(number), how)
        self.attention(block)
        if how.inside:
            self.reduce(answers.get(number), how)
        self.prefix = [feed_forward(block, state) for state in self.prefix]
        self.patches = [feed_forward(block, state) for state in self.patches]

    def attention(self, block: Any) -> None:
        """Attention with its residual; companions see the same keys and one another."""
        revived = self.revival is not None and self.revival.blocks > 0
        patches, sizes = self.patches, self.sizes
        if revived:
            assert self.revival is not None
            patches, sizes = self.revival.full(self.patches), self.revival.sizes
            self.revival.blocks -= 1
        seen = [*self.prefix, *patches]
        bias = [1.0] * len(self.prefix) + (sizes if self.biased else [1.0] * len(patches))
        beside = [*seen, *self.companions]
        companions = attended(block, self.companions, beside, bias + [1.0] * len(self.companions))
        self.companions = [feed_forward(block, state) for state in companions]
        after = attended(block, [*self.prefix, *self.patches], seen, bias)
        self.prefix, self.patches = after[: len(self.prefix)], after[len(self.prefix) :]

    def reduce(self, answer: Reduction | None, how: How) -> None:
        """Carry out an answer of a batch of one."""
        if answer is None or answer.anchor is None or answer.slot is None:
            return
        slot = answer.slot[0].tolist()
        if how.stabilise is not None:
            kept = answer.anchor[0].tolist()
            rest = (self.sizes, how.neighbours, how.stabilise)
            self.revival = Revival.of(self.patches, kept, *rest)
        groups = [
            [row for row, place in enumerate(slot) if place == wanted]
            for wanted in range(answer.length)
        ]
        assert all(groups)
        self.patches = [self._mean(group) for group in groups]
        self.sizes = [sum(self.sizes[row] for row in group) for group in groups]
        self.biased = self.biased or how.biased

    def _mean(self, group: list[int]) -> Vector:
        total = sum(self.sizes[row] for row in group)
        width = range(len(self.patches[0]))
        return [sum(self.sizes[r] * self.patches[r][d] for r in group) / total for d in width]

    def left(self) -> list[Vector]:
        """States after the last block, dropped ones restored."""
        patches = self.patches if self.revival is None else self.revival.full(self.patches)
        return [*self.prefix, *patches]


@dataclass(frozen=True)
class How:
    """What a method does besides choosing tokens.

    Attributes:
        inside: whether it reduces between attention and MLP, or before the block.
        biased: whether log sizes join the logits of later blocks.
        stabilise: blocks whose attention sees dropped tokens; None if they're gone at once.
        neighbours: kept tokens that a dropped one follows.
    """

    inside: bool = True
    biased: bool = True
    stabilise: int | None = None
    neighbours: int = 10


def attended(
    block: Any, asking: Sequence[Vector], seen: list[Vector], sizes: list[float]
) -> list[Vector]:
    """States after the attention half of a CLIP block, residual included."""
    part = block.self_attn
    normed = [norm(block.layer_norm1, state) for state in seen]
    keys = [linear(part.k_proj, state) for state in normed]
    values = [linear(part.v_proj, state) for state in normed]
    made = []
    for state in asking:
        query = linear(part.q_proj, norm(block.layer_norm1, state))
        found = attend(query, keys, values, HEADS, sizes)
        made.append(add(state, linear(part.out_proj, found)))
    return made


def feed_forward(block: Any, state: Vector) -> Vector:
    """The MLP half of a CLIP block with its quick GELU, residual included."""
    inner = linear(block.mlp.fc1, norm(block.layer_norm2, state))
    active = [x / (1 + math.exp(-1.702 * x)) for x in inner]
    return add(state, linear(block.mlp.fc2, active))
