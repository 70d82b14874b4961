"""The visual tokens of several samples at one place of a model, as a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Rows = list[tuple[Tensor, Tensor]]
"""Single samples: hidden states `[K, d]` and places `[K, 3]` of each."""


@dataclass(frozen=True)
class States:
    """Visual tokens of samples that may have unequally many, or none.

    Attributes:
        hidden: `[n, K, d]`, anything where `mask` is false.
        position: (t, h, w) of the patch whose place each token holds, `[n, K, 3]`.
        mask: `[n, K]` bool, true for tokens.
    """

    hidden: Tensor
    position: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[tuple[Tensor, Tensor]]) -> States:
        """A batch of single samples: hidden `[K, d]` and position `[K, 3]` of each."""
        hidden = pad_sequence([hidden for hidden, _ in rows], batch_first=True)
        position = pad_sequence([position for _, position in rows], batch_first=True)
        counts = torch.tensor([row.shape[0] for row, _ in rows], device=hidden.device)
        mask = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
        return cls(hidden, position, mask)

    @classmethod
    def joined(cls, parts: Sequence[States]) -> States:
        """Batches behind each other."""
        return cls.of([row for part in parts for row in part.rows()])

    def rows(self) -> list[tuple[Tensor, Tensor]]:
        """States `[K, d]` and positions `[K, 3]` of every sample, without padding."""
        each = zip(self.hidden, self.position, self.mask, strict=True)
        return [(hidden[mask], position[mask]) for hidden, position, mask in each]

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, pick: slice | Tensor) -> States:
        """Some of the samples."""
        return States(self.hidden[pick], self.position[pick], self.mask[pick])

    def mean(self) -> Tensor:
        """Mean state of all tokens, `[d]`."""
        return self.hidden[self.mask].mean(dim=0)

    def filled(self, state: Tensor) -> States:
        """The same tokens with one state `[d]` in all of them: their number and places only."""
        return States(state.expand_as(self.hidden), self.position, self.mask)
