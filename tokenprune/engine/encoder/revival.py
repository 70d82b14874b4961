"""Dropped tokens that can be reconstructed, and whose states stand at depths that are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.engine.encoder.members import Members
from tokenprune.engine.spreading import spread
from tokenprune.engine.stages import EncoderSite
from tokenprune.interface.dense import Reconstruction


@dataclass
class Revival:
    """Dropped tokens that can still be reconstructed (IPCV's shape).

    Attributes:
        reconstruction: how.
        site: where they were dropped.
        rows: `[B, K]` rows of the kept tokens among the tokens before the drop.
        until: first block whose attention no longer sees the full set.
        size, index, riders: `EncoderState`'s before the drop, handed on again when the tokens are
            restored. Riders set after the drop exist for kept tokens only, and are lost then.
        signals: the same; if tokens are restored, later blocks' signals of all tokens go here.
    """

    reconstruction: Reconstruction
    site: EncoderSite
    rows: Tensor
    until: int
    size: Tensor
    index: Tensor
    riders: Mapping[str, Tensor]
    signals: Mapping[str, Tensor]

    def full(self, hidden: Tensor, prefix: int, members: Members | None = None) -> Tensor:
        """All tokens, the dropped ones approximated: `[B, P + K, D]` -> `[B, P + N, D]`.

        Args:
            hidden: the prefix and what is left, unit by unit if there are members.
            prefix: P.
            members: of units of several rows.
        """
        patches = hidden[:, prefix:]
        if members is None:
            patches = self.reconstruction.full(patches)
        else:
            patches = members.apart(self.reconstruction.full(members.beside(patches)))
        return torch.cat((hidden[:, :prefix], patches), dim=1)


@dataclass(frozen=True)
class Exit:
    """Whose states stand in the rows of a depth that is read behind the encoder.

    Attributes:
        rows: `[B, R]` rows of the encoder; None for all of them in order.
        revival: dropped tokens that are restored there.
        members: of units of several rows.
    """

    rows: Tensor | None
    revival: Revival | None
    members: Members | None

    def whole(self, hidden: Tensor, prefix: int, count: int) -> Tensor:
        """States of all rows, zeros for those that are gone: `[B, P + R, D]` -> `[B, P + N, D]`.

        Args:
            hidden: the states at this depth.
            prefix: P.
            count: N.
        """
        if self.revival is not None:
            hidden = self.revival.full(hidden, prefix, self.members)
        return hidden if self.rows is None else spread(hidden, self.rows, prefix, count)
