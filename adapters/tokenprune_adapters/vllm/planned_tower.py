"""vLLM's tower of a Qwen-VL with a plan in it, in the form in which vLLM's own code calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tokenprune.integrations import Selected, packed_encoder
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.digits import DIGITS, digits, number
from tokenprune_adapters.vllm.packed_towers import VllmPackedAdapter


class PlannedTower:
    """A tower that gives what a plan leaves, in rows of all tokens, so that vLLM can gather them.

    Args:
        tower: vLLM's; the plan is put into it.
        plan: the plan.
        adapter: what knows the tower.

    Attributes:
        spatial_merge_size: rows and columns of patches that become one token.
        out_hidden_size: channels of a row.
        parameters: of the tower.

    Raises:
        TokenpruneError: the plan doesn't fit the tower, or the tower isn't one that is followed.
    """

    def __init__(
        self,
        tower: nn.Module,
        plan: Plan,
        adapter: type[VllmPackedAdapter] = VllmPackedAdapter,
    ) -> None:
        vision: Any = tower
        known = adapter(tower)
        self._tower, self._pruned = vision, packed_encoder(tower, plan, known)
        self._width = known.channels()
        self.spatial_merge_size: int = vision.spatial_merge_size
        self.out_hidden_size: int = self._width * len(known.spec().exits) + DIGITS
        self.parameters = tower.parameters

    def __call__(self, pixels: Tensor, grid_thw: Sequence[Sequence[int]]) -> Tensor:
        """Rows `[U, out_hidden_size]` of all pictures.

        Those that are left of a picture stand in front, see `taken`; zeros follow.

        Args:
            pixels: rows of patches `[R, ...]`.
            grid_thw: (t, h, w) in patches, of each picture.
        """
        grids = [[int(side) for side in grid] for grid in grid_thw]

        def features() -> Sequence[Tensor]:
            rows: Tensor = self._tower(pixels, grid_thw=grids)
            return torch.split(rows, self._width, dim=-1)

        return torch.cat([*self._rows(self._pruned.run(features), grids)]).to(self._tower.dtype)

    def _rows(self, left: Sequence[Selected], grids: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        side = self.spatial_merge_size
        for one, (frames, height, width) in zip(left, grids, strict=True):
            levels = [level[0] for level in (one.features, *one.levels)]
            yield laid(levels, one.index[0], frames * height * width // side**2)


def laid(levels: Sequence[Tensor], index: Tensor, total: int) -> Tensor:
    """Rows `[total, d]` of a picture: what is left of it in raster order, then zeros.

    Args:
        levels: `[K, d]` what is left, and the same tokens of further depths.
        index: `[K]` the places on the grid of tokens that they hold.
        total: tokens of the whole picture.
    """
    index, order = index.sort(stable=True)
    rows = torch.cat((*(level[order] for level in levels), digits(index).to(levels[0])), dim=-1)
    return pad(rows, (0, 0, 0, total - len(rows)))


def taken(rows: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """What is left of a picture, in raster order; the inverse of `laid`.

    Args:
        rows: `[N, d]` of a picture, in any floating-point type.
        left: how many tokens are left.

    Returns:
        Rows `[left, d']` without what travelled behind them, those of further depths behind the
        first; and the places `[left]` int64 on the grid of tokens that they hold.
    """
    return rows[:left, :-DIGITS], number(rows[:left, -DIGITS:])
