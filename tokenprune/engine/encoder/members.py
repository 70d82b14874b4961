"""Units of several rows of an encoder: which rows they are, and their states side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Members:
    """The rows of every unit, in the order in which what stands behind the encoder reads them.

    Attributes:
        rows: `[U, m]` of the patches in the encoder's own order.
    """

    rows: Tensor

    @property
    def count(self) -> int:
        """Members m of a unit."""
        return self.rows.shape[1]

    def ordered(self, values: Tensor) -> Tensor:
        """Values of rows in the encoder's order, unit by unit: `[B, U * m, ...]`, the same."""
        return values[:, self.rows.flatten()]

    def beside(self, rows: Tensor) -> Tensor:
        """States unit by unit, members side by side: `[B, K * m, D]` -> `[B, K, m * D]`."""
        return torch.unflatten(rows, 1, (-1, self.count)).flatten(2)

    def apart(self, units: Tensor) -> Tensor:
        """The inverse: `[B, K, m * D]` -> `[B, K * m, D]`."""
        return torch.unflatten(units, 2, (self.count, -1)).flatten(1, 2)

    def mean(self, values: Tensor) -> Tensor:
        """Values of rows unit by unit as means of units: `[B, K * m, ...]` -> `[B, K, ...]`."""
        return torch.unflatten(values, 1, (-1, self.count)).mean(dim=2)

    def of_units(self, index: Tensor) -> Tensor:
        """Rows of units: `[B, K]` -> `[B, K * m]`."""
        return self.rows[index].flatten(1)

    def slots(self, place: Tensor) -> Tensor:
        """Where members stand that are stored unit by unit: `[B, K]` -> `[B, K * m]`."""
        inside = torch.arange(self.count, device=place.device)
        return (place[..., None] * self.count + inside).flatten(1)
