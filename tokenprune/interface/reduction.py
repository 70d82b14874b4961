"""What a strategy answers: a linear map from the tokens it got to the tokens that go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tokenprune.interface.dense import Dense, Form, Reconstruction
from tokenprune.ops import keep_slots, merge_slots, take

__all__ = ["Reconstruction", "Reduction"]


@dataclass(frozen=True)
class Reduction:
    """A sparse linear map: every token goes to one slot with a weight, or to none.

    Build it with `keep`, `keep_mask`, `merge`, `replace`, `ragged` or `none`. The engine checks it,
    brings it into the form of `interface.dense` and applies that to everything that rides along.

    Attributes:
        anchor: for every slot the token whose place, position id and rotary row it takes,
            `[B, K]` int64, ascending (except for `replace`); None means nothing changes.
        slot: slot of every token, `[B, N]` int64 in 0..K-1, or -1 for a dropped token.
        weight: weight of every token in its slot's mean, `[B, N]`; None means its size.
        created: new hidden states of the slots, `[B, K, D]`, instead of the weighted mean.
        mask: `[B, N]` bool, kept tokens of a data-dependent length; rows may differ.
        reconstruction: how later blocks may see the dropped tokens.
        score: `[B, N]`, what the choice was made by; for traces and pictures only.
        riders: `[B, N, ...]` values left for later stages; a slot takes over its anchor's.
        samples: one dense reduction of a batch of one for every sample, whose lengths may differ;
            nothing else is set then.
        pairs: source and target of a merge as they were given; no token is dropped then.
        made: the slots as `keep` or `merge` made them; as long as they are `slot`, what is known
            of such slots is known of these.
    """

    anchor: Tensor | None = None
    slot: Tensor | None = None
    weight: Tensor | None = None
    created: Tensor | None = None
    mask: Tensor | None = None
    reconstruction: Reconstruction | None = None
    score: Tensor | None = None
    riders: Mapping[str, Tensor] = field(default_factory=dict)
    samples: tuple[Reduction, ...] = ()
    pairs: tuple[Tensor, Tensor] | None = None
    made: Tensor | None = None

    @classmethod
    def none(cls) -> Reduction:
        """Leave all tokens as they are."""
        return cls()

    @classmethod
    def keep(
        cls,
        index: Tensor,
        count: int,
        *,
        score: Tensor | None = None,
        reconstruction: Reconstruction | None = None,
    ) -> Reduction:
        """Keep the tokens at `index` `[B, K]` (ascending) out of `count`, drop the others."""
        slot = keep_slots(index, count)
        return cls._of(index, slot, reconstruction=reconstruction, score=score, made=slot)

    @classmethod
    def keep_mask(cls, mask: Tensor, *, score: Tensor | None = None) -> Reduction:
        """Keep where `mask` `[B, N]` is true: a length that depends on the data."""
        return cls(mask=mask, score=score)

    @classmethod
    def merge(
        cls, source: Tensor, target: Tensor, size: Tensor, *, score: Tensor | None = None
    ) -> Reduction:
        """Merge tokens `source` `[B, r]` into tokens `target` `[B, r]`; the others stay.

        Means are weighted by `size` `[B, N]`, so size-weighted sums are conserved. No source may
        be a target.
        """
        anchor, slot = merge_slots(source, target, size.shape[1])
        pairs = source, target
        return cls._of(anchor, slot, size, score=score, pairs=pairs, made=slot)

    @classmethod
    def replace(cls, created: Tensor, slot: Tensor, *, anchor: Tensor | None = None) -> Reduction:
        """Put `created` `[B, M, D]` in place of all tokens, assigned to them by `slot` `[B, N]`.

        `anchor` `[B, M]` says whose place each takes; by default evenly spaced ones (our choice).
        """
        if anchor is None:
            count, made = slot.shape[1], created.shape[1]
            steps = torch.arange(made, device=slot.device, dtype=torch.float64)
            spaced = ((steps + 0.5) * count / made - 0.5).round().long().clamp(0, count - 1)
            anchor = spaced.expand(slot.shape[0], -1)
        return cls._of(anchor, slot, created=created)

    @classmethod
    def _of(
        cls,
        anchor: Tensor,
        slot: Tensor,
        weight: Tensor | None = None,
        *,
        created: Tensor | None = None,
        reconstruction: Reconstruction | None = None,
        score: Tensor | None = None,
        pairs: tuple[Tensor, Tensor] | None = None,
        made: Tensor | None = None,
    ) -> Reduction:
        """A dense reduction, all fields given: see `interface.records`."""
        return cls(
            *(anchor, slot, weight, created, None, reconstruction, score),
            riders={},
            samples=(),
            pairs=pairs,
            made=made,
        )

    @classmethod
    def ragged(cls, samples: Sequence[Reduction]) -> Reduction:
        """Merges or new tokens of a data-dependent length: one dense reduction per sample.

        Each is of a batch of one and has an `anchor`; riders stand on them.
        """
        return cls(samples=tuple(samples))

    @property
    def changes(self) -> bool:
        """Whether anything is removed or replaced at all."""
        return self.anchor is not None or self.mask is not None or bool(self.samples)

    @property
    def dense(self) -> Dense | None:
        """Where every token goes; None if nothing changes or lengths depend on the data."""
        if self.anchor is None or self.slot is None:
            return None
        form: Form = "any"
        if self.slot is self.made and self.created is None:
            if self.pairs is not None and self.weight is not None:
                form = "merge"
            elif self.pairs is None and self.weight is None:
                form = "keep"
        return Dense(self.anchor, self.slot, self.weight, self.created, form)

    @property
    def length(self) -> int:
        """Number of slots K of a dense reduction."""
        assert self.anchor is not None
        return self.anchor.shape[1]

    def row(self, sample: int) -> Reduction:
        """The reduction of one sample, as a batch of one; a mask becomes a dense `keep`."""
        if self.samples:
            return self.samples[sample]
        pick = slice(sample, sample + 1)
        if self.mask is not None:
            index = self.mask[sample].nonzero().T
            score = None if self.score is None else self.score[pick]
            return Reduction.keep(index, self.mask.shape[1], score=score)
        return replace(
            self,
            anchor=_rows(self.anchor, pick),
            slot=_rows(self.slot, pick),
            weight=_rows(self.weight, pick),
            created=_rows(self.created, pick),
            score=_rows(self.score, pick),
            pairs=None,
            made=None,
        )

    def apply(self, hidden: Tensor, size: Tensor) -> Tensor:
        """Hidden states after a dense reduction: `[B, N, D]`, sizes `[B, N]` -> `[B, K, D]`."""
        return hidden if self.dense is None else self.dense.states(hidden)

    def gather(self, rider: Tensor) -> Tensor:
        """The anchors' rows of what can't be averaged: `[B, N, ...]` -> `[B, K, ...]`."""
        return rider if self.anchor is None else take(rider, self.anchor)

    def sizes(self, size: Tensor) -> Tensor:
        """Sizes after a dense reduction: `[B, N]` -> `[B, K]`; dropped patches leave the sum."""
        return size if self.dense is None else self.dense.sizes(size)


def _rows(value: Tensor | None, pick: slice) -> Tensor | None:
    return None if value is None else value[pick]
