"""Plans on pictures that stand in the prompt as runs of placeholders, perhaps with text between."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from tokenprune.integrations import Selected, count, select
from tokenprune.interface.sites import Grid
from tokenprune_adapters.vllm.served import ServedPlan

Runs = Sequence[int]
"""Lengths of a picture's runs of placeholders, in order."""


@dataclass(frozen=True)
class ServedRuns(ServedPlan):
    """A plan on a model whose pictures are told by their runs of placeholders."""

    @abstractmethod
    def shape(self, runs: Runs) -> tuple[Grid, int | None]:
        """Units (t, h, w) of a picture, and in how many pieces the tower sees it; None for one."""

    @abstractmethod
    def fits(self, runs: Runs, shape: Sequence[int]) -> bool:
        """Whether the tower makes as many units of pixels of a shape as the runs have."""

    def left(self, runs: Runs) -> int:
        """Tokens that are left of a picture, without the text between them.

        Raises:
            BudgetError: a budget asks for more tokens than the picture has.
        """
        grid, pieces = self.shape(runs)
        return count(grid, self.plan, tiles=pieces)

    def kept(self, features: Tensor, runs: Runs) -> tuple[Tensor, Tensor]:
        """What is left of the features `[N, d]` of a picture.

        Returns:
            Features `[left(runs), d]`, and `[left(runs)]` whose places they hold, ascending.
        """
        grid, pieces = self.shape(runs)
        return ordered(select(features[None], grid, self.plan, tiles=pieces, used=0))


def ordered(left: Selected) -> tuple[Tensor, Tensor]:
    """Features `[K, d]` of the one picture, and `[K]` whose places they hold, ascending."""
    index, order = left.index[0].sort(stable=True)
    return left.features[0][order], index


def spelled(
    left: tuple[Tensor, Tensor], ids: Tensor, placeholder: int, embed: Callable[[Tensor], Tensor]
) -> Tensor:
    """What is left of a picture, in its order with the text that stands between.

    Args:
        left: features `[K, d]`, and `[K]` whose places they hold.
        ids: `[L]` all that stands for the picture in the prompt of an engine without a plan, from
            its first placeholder to its last.
        placeholder: id of what stands for a unit.
        embed: gives the embeddings `[n, d]` of ids `[n]`.

    Returns:
        `[K + n, d]` with the n tokens of text.
    """
    (rows, index), ids = left, ids.to(left[0].device)
    units, text = ((ids == placeholder).nonzero()[:, 0], (ids != placeholder).nonzero()[:, 0])
    made = torch.cat((rows, embed(ids[text]).to(rows.dtype)))
    return made[torch.cat((units[index], text)).argsort(stable=True)]


def runs_of(ids: Sequence[int], placeholder: int) -> list[int]:
    """Lengths of the runs of a placeholder."""
    return [len([*run]) for same, run in groupby(ids) if same == placeholder]


def within(ids: Sequence[int], placeholder: int) -> slice:
    """From the first placeholder to behind the last one."""
    last = len(ids) - 1 - ids[::-1].index(placeholder)
    return slice(ids.index(placeholder), last + 1)
