"""The normal form of an answer: where every token of a dense batch goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from tokenprune.ops import merge_compact, sum_compact, take

Form = Literal["any", "keep", "merge"]
"""What is known of a map: `keep` gives every slot one token, `merge` drops none."""


class Reconstruction(Protocol):
    """What a dropping strategy remembers of the tokens it dropped (IPCV's shape).

    Attributes:
        blocks: for how many blocks, from the site's on, attention sees the full set.
        restore: whether the full set is handed on after the last used block.
    """

    @property
    def blocks(self) -> int:
        """For how many blocks, from the site's on, attention sees the full set."""
        ...

    @property
    def restore(self) -> bool:
        """Whether the full set is handed on after the last used block."""
        ...

    def full(self, hidden: Tensor) -> Tensor:
        """Kept states `[B, K, D]` -> approximate states of all tokens `[B, N, D]`."""
        ...


class Dense(NamedTuple):
    """A sparse linear map of a dense batch: every token goes to one slot, or to none.

    Attributes:
        anchor: for every slot the token whose place it takes, `[B, K]` int64.
        slot: slot of every token, `[B, N]` int64 in 0..K-1, or -1 for a dropped token.
        weight: weight of every token in its slot's mean, `[B, N]`; None if slots are copies of
            their anchors.
        created: new hidden states of the slots, `[B, K, D]`, instead of means or copies.
        form: what is known of the map.
    """

    anchor: Tensor
    slot: Tensor
    weight: Tensor | None = None
    created: Tensor | None = None
    form: Form = "any"

    @property
    def length(self) -> int:
        """Number of slots K."""
        return self.anchor.shape[1]

    @property
    def copies(self) -> bool:
        """Whether the slots' states are those of their anchors."""
        return self.weight is None and self.created is None

    def states(self, hidden: Tensor) -> Tensor:
        """Hidden states of the slots: `[B, N, D]` -> `[B, K, D]`, in the dtype of `hidden`."""
        if self.created is not None:
            return self.created.to(hidden.dtype)
        if self.weight is None:
            return self.take(hidden)
        return merge_compact(hidden, self.slot, self.weight, self.length)

    def take(self, values: Tensor) -> Tensor:
        """The anchors' rows of what can't be averaged: `[B, N, ...]` -> `[B, K, ...]`."""
        return take(values, self.anchor)

    def sizes(self, size: Tensor) -> Tensor:
        """Sizes of the slots: `[B, N]` -> `[B, K]`; dropped patches leave the sum."""
        if self.form == "keep":
            return self.take(size)
        return sum_compact(size, self.slot, self.length)


class Part(NamedTuple):
    """What becomes of those samples of a batch that are left equally many tokens.

    Attributes:
        rows: their rows in the batch, b of them, ascending; None for all samples.
        dense: where their tokens go; None if all stay as they are.
        riders: values left for later stages, `[b, N, ...]`.
        score: what the choice was made by, `[b, N]`, if the strategy tells.
        reconstruction: how later blocks may see the dropped tokens.
    """

    rows: Sequence[int] | None = None
    dense: Dense | None = None
    riders: Mapping[str, Tensor] = MappingProxyType({})
    score: Tensor | None = None
    reconstruction: Reconstruction | None = None
